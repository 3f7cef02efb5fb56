"""Reads STUDY.yaml into a Study: its keys checked by name, its grid expanded, its runs in an order that parents lead."""
import itertools
import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from study.fit_keys import complete_fit
from study.yaml_reader import StudyError, flat, read_yaml

DEFAULT_SEED = 6198
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]*")
PLACEHOLDER = re.compile(r"\{([a-z_]*)\}")
COMMAND_FIELDS = {"program", "config", "overrides", "ranks", "folder", "run", "seed", "repository"}
SUBMIT_FIELDS = COMMAND_FIELDS | {"command", "log", "job_name"}
PREPARE_FIELDS = {"parent", "target", "seed"}
# The engine's own: where a run is, its seed, and what it starts from.
OWN_KEYS = {"run.folder", "run.seed"}
REPORT = {"metrics": [], "axes": ["tokens", "flops", "time"], "fits": [], "smooth_steps": 0}
REQUIRED = object()


@dataclass(frozen=True)
class Run:
    """One run of a study, in each of its seeds."""
    name: str
    label: str
    config: Path
    overrides: dict  # dotted keys: the study's, the grid's and its own
    seeds: tuple
    parent: str | None = None
    parent_step: int | None = None  # None with a parent: its last step
    prepare: tuple | None = None  # a command that makes {target} of {parent}, which the run starts from
    grid: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Launch:
    """How runs are started."""
    command: tuple = ("{program}", "{config}", "{overrides}")
    submit: tuple | None = None  # prints a job id
    status: tuple | None = None  # prints the state of {job}
    ranks: int | None = None  # None where only the commands know
    jobs: int = 1  # at one time; 0: all
    retries: int = 3
    retry_wait_s: float = 5
    poll_s: float = 30

    @property
    def starts_one_process(self):
        return self.submit is None and self.command == Launch.command


@dataclass(frozen=True)
class Hardware:
    gpu: str
    gpus: int


@dataclass(frozen=True)
class Study:
    path: Path
    name: str
    question: str
    paper: str
    runs: tuple
    baseline: str
    folder: Path
    results: Path
    launch: Launch
    hardware: Hardware | None
    report: dict

    def run(self, name):
        return next(run for run in self.runs if run.name == name)

    def children(self, name):
        return [run for run in self.runs if run.parent == name]


class Section:
    """A mapping of the file whose keys are taken one by one; what is left over is refused by name."""

    def __init__(self, tree, where, source):
        self.where, self.source = where, source
        if not isinstance(tree, dict):
            raise self.error("", f"expected keys with values, not {tree!r}")
        self.tree = dict(tree)

    def error(self, key, text):
        path = ".".join(part for part in (self.where, key) if part)
        return StudyError(f"{self.source}: {path + ': ' if path else ''}{text}")

    def take(self, key, kind, default=REQUIRED):
        if key not in self.tree:
            if default is REQUIRED:
                raise self.error(key, "is required")
            return default
        value = self.tree.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.error(key, f"expected {' or '.join(KINDS[one] for one in kinds)}, not {value!r}")
        return value

    def number(self, key, default, least, kind=int):
        value = self.take(key, (int,) if kind is int else (int, float), default)
        if value is not None and value < least:
            raise self.error(key, f"is {value}, and must be at least {least}")
        return value

    def overrides(self, key="overrides"):
        values = flat(self.take(key, dict, {}))
        for name in values:
            if name in OWN_KEYS:
                raise self.error(f"{key}.{name}", "is set by the study: by its folder and seeds")
        return values

    def seeds(self, default):
        seeds = self.take("seeds", list, default)
        if not seeds or any(not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in seeds):
            raise self.error("seeds", "expected a list of integers, at least one")
        if len(set(seeds)) < len(seeds):
            raise self.error("seeds", "one of them stands twice")
        return tuple(seeds)

    def command(self, key, fields, default=None):
        """A command as a list of words, or as text that is split as a shell splits it."""
        value = self.take(key, (str, list), None)
        if value is None:
            return default
        try:
            words = tuple(shlex.split(value) if isinstance(value, str) else map(str, value))
        except ValueError as error:
            raise self.error(key, str(error)) from None
        if not words:
            raise self.error(key, "is empty")
        for word in words:
            for name in PLACEHOLDER.findall(word):
                if name not in fields:
                    known = ", ".join(f"{{{one}}}" for one in sorted(fields))
                    raise self.error(key, f"unknown placeholder {{{name}}}; known are {known}")
            if "{overrides}" in word and word != "{overrides}":
                raise self.error(key, "{overrides} must be a word of its own: it becomes several")
        return words

    def end(self):
        if self.tree:
            raise self.error(next(iter(self.tree)), "unknown key")


KINDS = {str: "text", int: "an integer", float: "a number", list: "a list", dict: "keys with values", bool: "true or false"}


def beside(folder, path):
    """A path of the file, which starts from the file's folder."""
    return Path(os.path.normpath(folder / path))


def read_launch(section):
    launch = Launch(
        command=section.command("command", COMMAND_FIELDS, Launch.command),
        submit=section.command("submit", SUBMIT_FIELDS), status=section.command("status", {"job"}),
        ranks=section.number("ranks", None, 1), retries=section.number("retries", Launch.retries, 0),
        retry_wait_s=section.number("retry_wait_s", Launch.retry_wait_s, 0, float),
        poll_s=section.number("poll_s", Launch.poll_s, 0.01, float), jobs=section.number("jobs", None, 0))
    if (launch.submit is None) != (launch.status is None):
        raise section.error("submit", "and status belong together: one starts a job, the other says whether it has ended")
    if launch.status and not any("{job}" in word for word in launch.status):
        raise section.error("status", "does not name the {job} that it is asked about")
    for key, words in (("command", launch.command), ("submit", launch.submit)):
        if words and "{overrides}" not in words and not any("{command}" in word for word in words):
            raise section.error(key, "has no {overrides}: every run would be the same")
    section.end()
    return replace(launch, jobs=launch.jobs if launch.jobs is not None else 0 if launch.submit else 1)


def with_ranks(launch, hardware, section):
    """With the ranks that the hardware has, one a GPU, else that one process is. Raises StudyError where that is not what
    the study says."""
    ranks = launch.ranks
    if hardware is not None:
        if ranks not in (None, hardware.gpus):
            raise section.error("launch.ranks", f"is {ranks}, and hardware.gpus {hardware.gpus}: every GPU has one rank")
        ranks = hardware.gpus
    elif launch.starts_one_process:
        ranks = 1 if ranks is None else ranks
    elif ranks is None and any("{ranks}" in word for word in launch.command + (launch.submit or ())):
        raise section.error("launch.ranks", "is required, for {ranks}, without hardware.gpus")
    return replace(launch, ranks=ranks)


def read_report(section):
    report = {"metrics": section.take("metrics", list, REPORT["metrics"]), "axes": section.take("axes", list, REPORT["axes"]),
              "fits": section.take("fits", list, REPORT["fits"]),
              "smooth_steps": section.number("smooth_steps", REPORT["smooth_steps"], 0)}
    for axis in report["axes"]:
        if axis not in REPORT["axes"]:
            raise section.error("axes", f"{axis!r} is none of {', '.join(REPORT['axes'])}")
    for fit in report["fits"]:
        try:
            complete_fit(fit)
        except ValueError as error:
            raise StudyError(f"{section.source}: {error}") from None
    section.end()
    return report


def read_run(section, study, folder):
    """`study`: config, overrides and seeds that a run has unless it names its own."""
    name = section.take("name", str)
    if not NAME.fullmatch(name):
        raise section.error("name", f"{name!r}: letters, digits and _.,=+- alone, a letter or digit first")
    config = section.take("config", str, None)
    run = Run(name=name, label=section.take("label", str, name), config=beside(folder, config) if config else study["config"],
              overrides=study["overrides"] | section.overrides(), seeds=section.seeds(list(study["seeds"])),
              parent=section.take("parent", str, None), parent_step=section.number("parent_step", None, 1),
              prepare=section.command("prepare", PREPARE_FIELDS))
    if run.config is None:
        raise section.error("config", "is required: the study names none")
    if run.parent is None and (run.parent_step is not None or run.prepare):
        raise section.error("parent", "is required with parent_step or prepare")
    if run.prepare and not any("{target}" in word for word in run.prepare):
        raise section.error("prepare", "does not name the {target} that it makes")
    if run.parent is not None and "train.init_from" in run.overrides:
        raise section.error("overrides.train.init_from", "is set by the study: the run has a parent")
    section.end()
    return run


def text_of(value):
    """A value as a config has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def expand_grid(runs, grid, section):
    """The product of the grid's values over the runs; `runs` may be one without a name. A parent is that of the same point."""
    if not grid:
        return runs
    short = {key: key.rpartition(".")[2] for key in grid}
    if len(set(short.values())) < len(short):
        short = {key: key for key in grid}
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise section.error(f"grid.{key}", "expected a list of values")
        for run in runs:
            if key in run.overrides:
                raise section.error(f"grid.{key}", f"is an override {'of ' + run.name if run.name else 'too'}")
    out = []
    for point in itertools.product(*grid.values()):
        at = dict(zip(grid, point))
        suffix = ",".join(f"{short[key]}={text_of(value)}" for key, value in at.items())
        if not NAME.fullmatch(suffix):
            raise section.error("grid", f"{suffix} cannot be the name of a run: write its runs out")

        def named(name):
            return f"{name}-{suffix}" if name else suffix

        out += [replace(run, name=named(run.name), label=f"{run.label}, {suffix}" if run.name else suffix, grid=at,
                        overrides=run.overrides | at, parent=named(run.parent) if run.parent else None) for run in runs]
    return out


def check_tree(runs, section):
    """Names are unique, parents are there in the same seeds, and no run is its own ancestor."""
    by_name = {}
    for run in runs:
        if run.name in by_name:
            raise section.error("runs", f"two are called {run.name}")
        by_name[run.name] = run
    for run in runs:
        seen, at = [run.name], run
        while at.parent is not None:
            if at.parent not in by_name:
                raise section.error("runs", f"{at.name}: its parent {at.parent} is no run of the study")
            at = by_name[at.parent]
            if at.name in seen:
                raise section.error("runs", f"{run.name} is its own ancestor: {' <- '.join([*seen, at.name])}")
            seen.append(at.name)
        if run.parent is not None and (absent := set(run.seeds) - set(by_name[run.parent].seeds)):
            raise section.error("runs", f"{run.name}: its parent {run.parent} has no seed {min(absent)}")


def read_runs(section, folder):
    config = section.take("config", str, None)
    shared = {"config": beside(folder, config) if config else None, "overrides": section.overrides(),
              "seeds": section.seeds([DEFAULT_SEED])}
    grid, listed = flat(section.take("grid", dict, {})), section.take("runs", list, None)
    if listed is None and grid:
        if shared["config"] is None:
            raise section.error("config", "is required")
        runs = [Run("", "", shared["config"], shared["overrides"], shared["seeds"])]
    else:
        runs = [read_run(Section(tree, f"runs[{number}]", section.source), shared, folder)
                for number, tree in enumerate(listed or [])]
    if not runs:
        raise section.error("runs", "a study has runs, a grid, or both")
    runs = expand_grid(runs, grid, section)
    check_tree(runs, section)
    return tuple(runs)


def read_study(path, results=None):
    """Reads a study; `results` replaces its folder of results. Relative paths start from the folder of the file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    section = Section(read_yaml(text, path), "", path)
    folder = path.resolve().parent
    name = section.take("name", str)
    if not NAME.fullmatch(name):
        raise section.error("name", f"{name!r}: letters, digits and _.,=+- alone, a letter or digit first")
    runs = read_runs(section, folder)
    baseline = section.take("baseline", str, runs[0].name)
    if baseline not in [run.name for run in runs]:
        raise section.error("baseline", f"{baseline} is no run of the study: {', '.join(run.name for run in runs)}")
    hardware = section.take("hardware", dict, None)
    if hardware is not None:
        chosen = Section(hardware, "hardware", path)
        hardware = Hardware(chosen.take("gpu", str), chosen.number("gpus", REQUIRED, 1))
        chosen.end()
    study = Study(
        path=path, name=name, question=section.take("question", str), paper=section.take("paper", str, ""), runs=runs,
        baseline=baseline, folder=beside(folder, section.take("folder", str)), hardware=hardware,
        results=beside(folder, section.take("results", str)),
        launch=with_ranks(read_launch(Section(section.take("launch", dict, {}), "launch", path)), hardware, section),
        report=read_report(Section(section.take("report", dict, {}), "report", path)))
    section.end()
    return replace(study, results=Path(results).resolve()) if results else study

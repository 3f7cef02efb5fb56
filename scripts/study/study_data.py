"""The finished runs of a study as the report looks at them: final values, curves and axes, and what is missing."""
import statistics
from dataclasses import dataclass

import numpy as np

from study.curves import Curve, bins_of, smoothed
from study.formats import names, quoted
from study.result_checks import results_of_study
from study.statistics import ReportError, mean_estimate

SMOOTH_STEPS = 50  # where the study names none; a fifth of shorter runs
HELDOUT = "heldout"  # mean over the held-out sets
LOSS = "loss"  # training loss, mean of the last steps
AXES = {"tokens": "tokens", "flops": "training FLOPs", "time": "time"}
NAMES = {HELDOUT: "mean held-out loss", LOSS: "training loss", "lr": "learning rate", "grad_norm": "gradient norm",
         "load_balancing_loss": "load-balancing loss"}
DECIMALS = {"loss": 4, "max_expert_load": 2, "expert_load_variation": 3, "dead_experts": 1, "router_entropy": 3,
            "dropped_assignments": 1, "grad_norm": 3, "lr": 6}


def set_name(key):
    """prose_heldout of eval/prose_heldout/loss; other keys stay."""
    return key.removeprefix("eval/").removesuffix("/loss") if is_heldout_loss(key) else key.removeprefix("eval/")


def is_heldout_loss(key):
    return key.startswith("eval/") and key.endswith("/loss")


def default_smooth_steps(results):
    return max(1, min([SMOOTH_STEPS, *(result["steps"] // 5 for result in results)]))


@dataclass(frozen=True)
class RunSeed:
    """One run of one seed that is finished or diverged."""
    result: dict
    smooth_steps: int

    @property
    def parent_tokens(self):
        return self.result["parent"]["tokens"] if self.result.get("parent") else 0

    @property
    def tokens(self):
        return self.result["tokens"]

    def curve(self, key=LOSS):
        """Curve of a series against tokens, smoothed. None: no such series."""
        return smoothed(self.result["series"], key, self.smooth_steps, self.parent_tokens)

    def bins(self, key=LOSS):
        """The same without smoothing: up to the last step, which a run that diverged is about."""
        return bins_of(self.result["series"], key)

    def last_evaluation(self):
        """Values of the evaluation of the last step; {} where that step has none."""
        evaluations = self.result["evaluations"]
        if not evaluations or evaluations[-1]["tokens"] != self.tokens:
            return {}
        return evaluations[-1]["values"]

    def flops_at(self, tokens):
        """Training FLOPs through the fork up to counts of tokens."""
        parent = self.result.get("parent") or {"flops": 0, "tokens": 0}
        return parent["flops"] + self.result["flops_per_token"] * (np.asarray(tokens, float) - parent["tokens"])

    def own_steps_at(self, tokens):
        series = self.result["series"]
        begin = series["step"][0] - series["bin_steps"]
        return np.interp(tokens, [self.parent_tokens, *series["tokens"]], [0, *(step - begin for step in series["step"])])


class RunData:
    """A run of the study: `seeds` that are finished, and those that `diverged`, which have no final values."""

    def __init__(self, run, index, found, step_times):
        self.name, self.label, self.run, self.index = run.name, run.label or run.name, run, index
        own = {seed: found[run.name, seed] for seed in run.seeds if (run.name, seed) in found}
        self.seeds = {seed: one for seed, one in own.items() if "diverged" not in one.result}
        self.diverged = {seed: one for seed, one in own.items() if "diverged" in one.result}
        hashes = {one.result["config_hash"] for one in own.values()}
        self.rounds = [one["s_per_step"] for one in (step_times or {}).get("rounds", [])
                       if one["run"] == run.name and one["config_hash"] in hashes]

    @property
    def step_time(self):
        """Median seconds measured alone, or None."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def first(self):
        """The result of the first seed: for what seeds have in common."""
        return next(iter((self.seeds or self.diverged).values())).result

    def diverged_at(self):
        """{seed: step}"""
        return {seed: one.result["diverged"] for seed, one in self.diverged.items()}


class StudyData:
    """`study` of study.spec, results and step times as the files have them."""

    def __init__(self, study, results, step_times, strays=()):
        self.study, self.step_times, self.strays = study, step_times, strays
        kept, self.changed = results_of_study(study, results)
        if self.changed and not kept:
            first = "; ".join(f"{name} seed {seed}: {changes[0]}" for (name, seed), changes in self.changed.items())
            raise ReportError(f"every result is of another config than study {study.name} has now: {first}")
        finished = [result for result in kept if "diverged" not in result]
        self.smooth_steps = study.report.get("smooth_steps") or default_smooth_steps(finished)
        found = {(result["run"], result["seed"]): RunSeed(result, self.smooth_steps) for result in kept}
        planned = [(run.name, seed) for run in study.runs for seed in run.seeds]
        self.missing = [key for key in planned if key not in found and key not in self.changed]
        self.num_planned, self.num_finished = len(planned), len(finished)
        everything = [RunData(run, index, found, step_times) for index, run in enumerate(study.runs)]
        self.rows = [run for run in everything if run.seeds or run.diverged]  # of tables
        self.runs = [run for run in self.rows if run.seeds]  # of curves, means, fits and differences
        if not self.runs:
            raise ReportError(f"study {study.name}: " + (
                f"every finished run diverged: {diverged_text(self.rows)}" if self.rows else "no run is finished yet"))
        self.by_name = {run.name: run for run in self.runs}
        self.baseline = self.by_name.get(study.baseline)
        self.evaluated_keys = {key for result in finished for at in result["evaluations"] for key in at["values"]}
        evaluated = [key for run in self.runs for one in run.seeds.values() for key in one.last_evaluation()]
        self.heldout_keys = sorted({key for key in evaluated if is_heldout_loss(key)})
        series = {key for result in finished for key in result["series"]} - {"bin_steps", "step", "tokens"}
        self.known_keys = {HELDOUT, LOSS, *evaluated, *series}
        self.metrics = list(study.report.get("metrics") or [])
        if absent := [key for key in self.metrics if key not in self.known_keys]:
            raise ReportError(f"report.metrics: no result has {absent[0]}; there are {', '.join(sorted(self.known_keys))}")

    @property
    def candidates(self):
        return [run for run in self.runs if run is not self.baseline]

    @property
    def ranked_by(self):
        """The key that the answer is about."""
        return HELDOUT if self.heldout_keys else LOSS

    def final(self, one, key):
        """The final value of a RunSeed, or None where it has none."""
        if self.is_evaluated(key):
            points = self.evaluated(one, key)
            return points[-1][1] if points and points[-1][0] == one.tokens else None
        curve = one.curve(key)
        return None if curve is None else curve.final

    def is_evaluated(self, key):
        """Whether a key is of evaluations, not of training steps."""
        return key == HELDOUT or key in self.evaluated_keys

    def finals(self, run, key):
        """{seed: final value or None}"""
        return {seed: self.final(one, key) for seed, one in run.seeds.items()}

    def mean_final(self, run, key):
        """Mean over the seeds that have it; None where none has."""
        values = [value for value in self.finals(run, key).values() if value is not None]
        return mean_estimate(values) if values else None

    def loss_curves(self, run):
        return {seed: one.curve() for seed, one in run.seeds.items()}

    def heldout_curves(self, run):
        """{seed: mean held-out loss against tokens at the evaluations that have every set}; None below two of them."""
        out = {}
        for seed, one in run.seeds.items():
            points = [(tokens, value) for tokens, value in self.evaluated(one, HELDOUT) if tokens > 0]
            out[seed] = Curve(*np.array(points, float).T) if len(points) > 1 else None
        return out

    def evaluated(self, one, key):
        """[(tokens, value)] of the evaluations of a RunSeed that have a key, or all sets of the mean."""
        keys = self.heldout_keys if key == HELDOUT else [key]
        return [(at["tokens"], float(np.mean([at["values"][name] for name in keys])))
                for at in one.result["evaluations"] if keys and all(name in at["values"] for name in keys)]

    def seconds_at(self, one, tokens):
        """Seconds through the fork, steps x the step time measured alone; None where one of the runs was not measured."""
        run, before = self.run_of(one.result), 0.0
        if run.step_time is None:
            return None
        if parent := one.result.get("parent"):
            trunk = self.by_name.get(parent["run"])
            trunk = trunk and trunk.seeds.get(parent["seed"])
            before = None if trunk is None else self.seconds_at(trunk, parent["tokens"])
            if before is None:
                return None
        return before + run.step_time * one.own_steps_at(tokens)

    def run_of(self, result):
        return next(run for run in self.rows if run.name == result["run"])

    def at_axis(self, one, axis, tokens):
        """Counts of tokens as FLOPs or seconds; None where that is not known."""
        if axis == "tokens":
            return np.asarray(tokens, float)
        return one.flops_at(tokens) if axis == "flops" else self.seconds_at(one, tokens)


def name_of(key):
    """A metric's name in tables."""
    return NAMES.get(key, set_name(key).replace("_", " "))


def decimals_of(key):
    return DECIMALS.get(key, 4)


def diverged_text(runs):
    """b in all 3 seeds (at step 7, 9 and 12), c in seed 1 (at step 40)"""
    parts = []
    for run in runs:
        steps = run.diverged_at()
        if steps:
            of = "" if len(run.run.seeds) == 1 else f" in all {len(steps)} seeds" if len(steps) == len(run.run.seeds) else (
                f" in seed{'s' * (len(steps) > 1)} {names(map(str, steps))}")
            parts.append(f"{quoted(run.label)}{of} (at step {names(map(str, steps.values()), 6)})")
    return ", ".join(parts)

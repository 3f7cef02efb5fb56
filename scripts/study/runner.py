"""Brings the runs of a study to their end: skips what is done, starts, watches, restarts, and says what failed."""
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from study import launchers, results
from study.files import is_in_use, json_lines, read_json, write_whole
from study.plan import RunPlan
from study.run_log import end_of, last_error, versions_of
from study.yaml_reader import StudyError

LOOK_S = 0.2
# Of the program (docs/failures.md): a config or its data are no better the next time.
NOT_RETRIED = {2: "config", 3: "data"}
NOT_FINITE = 72


@dataclass(frozen=True)
class Item:
    """A run in one seed, and where its files are."""
    plan: RunPlan
    seed: int
    root: Path  # of the study's run folders

    @property
    def name(self):
        return f"{self.plan.run.name} seed {self.seed}"

    def path(self, suffix=""):
        return self.root / self.plan.run.name / f"seed_{self.seed}{suffix}"

    @property
    def folder(self):
        return self.path()

    @property
    def log(self):
        return self.path(".log")

    @property
    def job_file(self):
        return self.path(".job")

    @property
    def start_folder(self):
        """What its prepare command makes."""
        return self.path(".start")

    def checkpoint(self, step):
        return self.folder / "checkpoints" / f"step_{step:09d}"

    def parent(self):
        return self.plan.parent and Item(self.plan.parent, self.seed, self.root)

    def source(self):
        """The checkpoint of its parent."""
        return self.parent().checkpoint(self.plan.fork_step)

    def there(self):
        """The first of its folders that is there; None where none is."""
        return next((folder for folder in (self.folder, self.start_folder) if folder.exists()), None)

    def is_foreign(self):
        """Whether its folder is one that the study did not begin."""
        return self.there() is not None and self.read_state()["begun"] is None

    def read_state(self):
        """`begun`: what it was when it was first started."""
        return {"tries": 0, "failed": None, "begun": None} | (read_json(self.path(".json")) or {})

    def write_state(self, **changes):
        write_whole(self.path(".json"), json_lines(self.read_state() | changes))


def items_of(study, plan):
    """All runs, the first seed of all of them first, parents before their children."""
    seeds = dict.fromkeys(seed for run in study.runs for seed in run.seeds)
    return [Item(one, seed, study.folder) for seed in seeds for one in plan.runs.values() if seed in one.run.seeds]


class Runner:
    """One olmoe-study at work; it holds the lock of the study's folder."""

    def __init__(self, study, plan, programs, say):
        self.study, self.plan, self.programs, self.say = study, plan, programs, say
        self.items = items_of(study, plan)
        self.done, self.active, self.failed = set(), {}, {}
        self.diverged, self.blocked = set(), {}  # of done: those that diverged; their children
        self.log_before, self.wait_until = {}, {}

    def check_done(self):
        """Finds what is done. Raises StudyError for results and run folders of another config or of nobody knows whom: they
        are not overwritten."""
        problems = []
        for item in self.items:
            result = results.read_result(self.study, item.plan.run.name, item.seed)
            if result is not None:
                where = results.result_path(self.study, item.plan.run.name, item.seed)
                self.done.add(item)
                self.diverged |= {item} if "diverged" in result else set()
            elif item.is_foreign():
                problems.append(self.foreign(item))
            else:
                where = item.there()
                result = where and item.read_state()["begun"]
            changes = results.changes_since(result, item.plan, self.plan.defaults) if result else []
            if changes:
                problems.append(f"{where} is of another config than the study has now ({'; '.join(changes)})")
        if problems:
            raise StudyError("; ".join(problems) + ": move it away to run it anew, or give the changed run another name")
        self.drop_parents_without_checkpoints()
        self.mark_blocked()

    def is_unfinished(self):
        return len(self.done) + len(self.failed) + len(self.blocked) < len(self.items)

    def foreign(self, item):
        return (f"{item.there()} was not begun by this study: it has no {item.path('.json').name} beside it that says of which "
                "config it is")

    def drop_parents_without_checkpoints(self):
        """A finished run whose checkpoint a child still needs, and which is not there (a fresh clone), runs again."""
        for item in reversed(self.items):
            parent = item.parent()
            if item in self.done or parent is None or parent not in self.done or parent in self.diverged or item.folder.exists():
                continue
            if item.start_folder.exists() or item.source().exists():
                continue
            if results.is_complete(parent.plan, parent.folder):
                raise StudyError(f"{item.source()} is not there, from which {item.name} starts: move {parent.folder} away to "
                                 "run it anew")
            if parent.is_foreign():
                raise StudyError(f"{self.foreign(parent)}, and {item.name} starts from it: move it away to run it anew")
            self.say(f"{parent.name}: done, but its checkpoint of step {item.plan.fork_step} is not here: it runs again")
            self.done.discard(parent)

    def missing_of(self, item):
        """What a run lacks to be done, as text; None where it is. Raises StudyError for metrics that no run leaves."""
        try:
            results.steps_and_evaluations(item.plan, item.folder)
        except results.Incomplete as incomplete:
            return str(incomplete)
        for child in self.items:
            if child.parent() == item and child not in self.done and not child.start_folder.exists() and not (
                    child.folder.exists() or child.source().exists()):
                return f"its checkpoint of step {child.plan.fork_step} is missing"
        return None

    def overrides(self, item):
        """Of one start."""
        start = {}
        if item.parent():
            start = {key: value for key, value in item.plan.config.items()
                     if key in ("train.init_optimizer", "train.init_progress")}
            start["train.init_from"] = str(item.start_folder if item.plan.run.prepare else item.source())
        return item.plan.run.overrides | start | {"run.folder": str(item.folder), "run.seed": item.seed}

    def prepare(self, item):
        """Makes what the run starts from, unless it is there: under another name, so that a command which was killed has made
        nothing. Returns why it could not, as text."""
        if not item.plan.run.prepare or item.there():
            return None
        part = item.path(".start.part")
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        words = launchers.fill(item.plan.run.prepare, {"parent": item.source(), "target": part, "seed": item.seed}, [])
        program = {path.name: path for path in vars(self.programs).values()}.get(words[0], words[0])
        self.say(f"{item.name}: {Path(words[0]).name} makes what it starts from")
        if launchers.run_command([program, *words[1:]], item.log) != 0:
            return f"the command that prepares it failed: {last_error(item.log, self.log_before[item])}"
        if not part.exists():
            return "the command that prepares it made no {target}"
        os.rename(part, item.start_folder)
        return None

    def start(self, item):
        """Starts a run, or takes over one that an earlier olmoe-study started."""
        tries = item.read_state()["tries"]
        self.log_before[item] = end_of(item.log)
        if is_in_use(item.log):
            self.say(f"{item.name}: still running; waiting for it")
            self.active[item] = launchers.Orphan(item.log)
            return
        if self.study.launch.submit and (number := launchers.submitted(item)):
            self.say(f"{item.name}: following job {number}")
            self.active[item] = launchers.Job(number, self.study.launch)
            return
        if self.missing_of(item) is None:
            self.finish(item)
            return
        item.write_state(begun=item.plan.describe(), failed=None)
        if problem := self.prepare(item):
            self.fail(item, problem)
            return
        self.launch(item, f", try {tries + 1}" if tries else "")

    def launch(self, item, what):
        overrides = self.overrides(item)
        if not self.study.launch.submit:
            command = launchers.command_of(item, self.study, self.programs, overrides)
            self.active[item] = launchers.Process(command, item.log)
            self.say(f"{item.name}: started{what}; log in {item.log}")
        elif number := launchers.submit(item, self.study, self.programs, overrides):
            self.active[item] = launchers.Job(number, self.study.launch)
            self.say(f"{item.name}: submitted as job {number}{what}")
        else:
            self.fail(item, f"it could not be submitted: {last_error(item.log, self.log_before[item])}")

    def finish(self, item):
        result = results.make_result(self.study, item.plan, item.seed, item.folder, versions_of(item.log))
        self.keep(item, result)
        losses = [value for key, value in (result["evaluations"] or [{"values": {}}])[-1]["values"].items()
                  if key.endswith("/loss")]
        held_out = f", mean held-out loss {sum(losses) / len(losses):.4f}" if losses else ""
        self.say(f"{item.name}: done ({len(self.done)} of {len(self.items)}): step {item.plan.steps}{held_out}")

    def keep(self, item, result):
        results.write_result(self.study, result)
        item.write_state(tries=0, failed=None)
        self.done.add(item)

    def diverge(self, item):
        """A run has met a number that is not finite: it would again, and that is its result."""
        result = results.make_diverged_result(self.study, item.plan, item.seed, item.folder, versions_of(item.log))
        if results.read_result(self.study, item.plan.run.name, item.seed) is not None:
            raise StudyError(f"it diverged at step {result['diverged']}, though its result of another day says otherwise")
        self.keep(item, result)
        self.diverged.add(item)
        self.say(f"{item.name}: diverged at step {result['diverged']} of {item.plan.steps}, which is its result "
                 f"({len(self.done)} of {len(self.items)}): {last_error(item.log, self.log_before[item])}")

    def end(self, item, ended):
        """A run has ended: well or diverged, or else it is started again or has failed for good."""
        try:
            missing = self.missing_of(item)
            if ended.code == NOT_FINITE:
                self.diverge(item)
            elif missing is None and (ended.code in (0, None) and ended.text in ("", launchers.WELL)):
                self.finish(item)
            elif ended.code is not None or ended.text:  # else nobody knows how it ended, and it is no try
                how = f"{ended.describe()}, {missing or 'though complete'}"
                self.fail(item, f"{how}: {last_error(item.log, self.log_before[item])}", ended.code in NOT_RETRIED)
        except StudyError as error:
            self.fail(item, str(error), for_good=True)
        item.job_file.unlink(missing_ok=True)

    def fail(self, item, why, for_good=False):
        tries = item.read_state()["tries"] + 1
        if for_good or tries > self.study.launch.retries:
            self.failed[item] = f"{why} (after {tries} {'tries' if tries > 1 else 'try'}; {item.log})"
            item.write_state(tries=0, failed=why)  # another olmoe-study tries again
            self.say(f"{item.name}: failed: {self.failed[item]}")
            return
        item.write_state(tries=tries)
        self.wait_until[item] = time.monotonic() + self.study.launch.retry_wait_s
        self.say(f"{item.name}: {why}; it is started again")

    def startable(self, item):
        if item in self.done or item in self.active or item in self.failed or item in self.blocked:
            return False
        if item.plan.parent and item.parent() not in self.done - self.diverged:
            return False
        return time.monotonic() >= self.wait_until.get(item, 0)

    def mark_blocked(self):
        """Names the children of runs that failed or diverged. Those of the latter are no failure: they cannot be."""
        for item in self.items:
            parent = item.parent()
            if parent is None or item in self.done or item in self.failed or item in self.blocked:
                continue
            if parent in self.failed:
                self.failed[item] = f"its parent {parent.plan.run.name} failed"
            elif parent in self.diverged:
                self.blocked[item] = f"its parent {parent.plan.run.name} diverged"
            elif parent in self.blocked:
                self.blocked[item] = f"its parent {parent.plan.run.name} was not started"

    def run(self):
        """After check_done(): returns whether all runs are done that can be."""
        if self.done:
            self.say(f"{len(self.done)} of {len(self.items)} runs are done"
                     + (f", {len(self.diverged)} of them diverged" if self.diverged else ""))
        try:
            while self.is_unfinished():
                for item, handle in list(self.active.items()):
                    if ended := handle.poll():
                        del self.active[item]
                        self.end(item, ended)
                jobs = self.study.launch.jobs or len(self.items)
                while len(self.active) < jobs and (item := next(filter(self.startable, self.items), None)):
                    self.start(item)
                self.mark_blocked()
                time.sleep(LOOK_S)
        finally:
            self.leave()
        for item, why in (self.failed | self.blocked).items():
            self.say(f"not done: {item.name}: {why}")
        return not self.failed

    def leave(self):
        """Asks processes of this machine to save and leave, where the study ends before they do; jobs go on."""
        processes = [handle for handle in self.active.values() if isinstance(handle, launchers.Process)]
        for handle in processes:
            handle.ask_to_leave()
        for handle in processes:
            handle.leave()
        for item, handle in self.active.items():
            if not isinstance(handle, launchers.Process):
                self.say(f"{item.name}: goes on; start the study again to follow it")


def diverged_ancestor(item, study):
    """The parent, or a parent's parent, whose result is that it diverged, in words; None where none is."""
    parent, word = item.parent(), "parent"
    while parent is not None:
        if "diverged" in (results.read_result(study, parent.plan.run.name, parent.seed) or {}):
            return f"{word} {parent.plan.run.name}"
        parent, word = parent.parent(), "parent's parent"
    return None


def state_of(item, study, plan):
    """One line of what is known of a run, from files alone."""
    result = results.read_result(study, item.plan.run.name, item.seed)
    if result is not None:
        changes = results.changes_since(result, item.plan, plan.defaults)
        if changes:
            return f"result of another config: {'; '.join(changes)}"
        return f"done: diverged at step {result['diverged']} of {item.plan.steps}" if "diverged" in result else "done"
    if ancestor := diverged_ancestor(item, study):
        return f"not done: its {ancestor} diverged"
    if item.is_foreign():
        return f"{item.there()} was not begun by this study"
    step, state = results.last_step(item.folder), item.read_state()
    at = f", step {step} of {item.plan.steps}" if step else ""
    if is_in_use(item.log):
        return f"running{at}"
    if item.job_file.exists():
        return f"submitted as job {item.job_file.read_text(errors='replace').strip() or '(unknown)'}{at}"
    if state["failed"]:
        return f"failed{at}: {state['failed']}"
    return f"stopped{at}" if state["begun"] else "not started"

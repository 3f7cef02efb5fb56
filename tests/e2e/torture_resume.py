"""Kills a run on two ranks again and again and compares what it becomes with a run that nobody touched, bit for bit.

    tests/e2e/torture_resume.py STEPS TRIALS SAVES     (scripts/torture_resume.sh starts it)

k:      for every k up to STEPS, a run that saves every k steps is killed (SIGKILL, all ranks and mpirun) at a random
        moment after its first checkpoint.
random: TRIALS times, a run that saves every step is killed at a random moment.
save:   a run whose saves last long is killed while it saves, until SAVES kills fell inside a save, which is told from
        what they left behind; that takes more runs where some came too late, but at most twice as many.
"""
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from signal import SIGKILL

from support import PATIENCE_S, PROGRAM, TINY, Job, checkpoints, last_step, step_lines

RANKS = 2
SEED = 6198
ATTEMPTS = 3  # of a kill that comes in time, before the run is past the steps that are compared
SMALL = ["train.global_batch_size=32"]
# 17 MB a rank: a save lasts tens of milliseconds. Each save removes the checkpoint before it: there is none to spare.
LARGE = ["train.global_batch_size=8", "model.vocab_size=16384", "model.d_model=64", "model.num_experts=16",
         "model.expert_width=128", "checkpoint.keep=1"]
PHASES = {"shards": "a shard file is missing or short", "sync": "the shard files are whole, and no manifest is begun",
          "manifest": "the manifest is begun, but not there under its name",
          "rename": "all is there, in the temporary folder"}


def step_folder(run, step, prefix=""):
    return run / "checkpoints" / f"{prefix}step_{step:09}"


def shards(run, step):
    return {path.name: path.read_bytes() for path in step_folder(run, step).glob("shard_*")}


def spin_until(job, *paths):
    """Waits until one of `paths` exists, without sleep: what is waited for may be gone after a millisecond."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(map(os.path.exists, paths)):
        if job.process.poll() is not None or time.monotonic() > deadline:
            job.kill()
            raise AssertionError(f"ended, or waited {PATIENCE_S} s, before one of {paths}:\n{job.text()}")


class Torture:
    """One model: its run that nobody touched, and the trials that are compared with it."""

    def __init__(self, folder, steps, overrides):
        folder.mkdir()
        self.folder, self.steps, self.overrides = folder, steps, overrides
        self.trials, self.failures, self.phases = 0, 0, Counter()
        self.config = folder / "tiny.yaml"
        self.config.write_text(TINY)
        self.finish("straight")
        self.straight, self.shards = step_lines(folder / "straight"), shards(folder / "straight", steps)
        if (len(self.straight), len(self.shards)) != (steps, RANKS):
            raise AssertionError(f"{len(self.straight)} lines of metrics and {len(self.shards)} shard files "
                                 f"for {steps} steps on {RANKS} ranks")

    def start(self, run, steps, every):
        return Job(self.folder, [self.config, f"run.folder={run}", f"train.steps={steps}", *self.overrides,
                                 f"checkpoint.every_steps={every}"], RANKS)

    def finish(self, run):
        """To the end; returns what the program said."""
        job = self.start(run, self.steps, 0)
        code, text = job.wait(), job.text()
        if code != 0:
            raise AssertionError(f"exit code {code}:\n{text}")
        return text

    def save_length_s(self):
        """Median time for which the temporary folder of a save is there, in seconds."""
        job = self.start("timed", self.steps, 1)
        lengths = []
        for step in range(1, self.steps + 1):
            temporary, done = (step_folder(self.folder / "timed", step, prefix) for prefix in (".tmp_", ""))
            spin_until(job, temporary, done)
            begin = time.perf_counter()
            spin_until(job, done)
            lengths.append(time.perf_counter() - begin)
        if job.wait() != 0:
            raise AssertionError(job.text())
        return statistics.median(lengths)

    def interrupted(self, run):
        """The phase of the save that was interrupted, from what it left behind; none: no save was."""
        left = list(run.glob("checkpoints/.tmp_step_*"))
        if not left or step_folder(run, int(left[0].name[len(".tmp_step_"):])).exists():
            return None
        sizes_bytes = {path.name: path.stat().st_size for path in left[0].iterdir()}
        if "manifest.json" in sizes_bytes:
            return "rename"
        if "manifest.json.tmp" in sizes_bytes:
            return "manifest"
        return "sync" if all(sizes_bytes.get(name) == len(data) for name, data in self.shards.items()) else "shards"

    def trial(self, name, every, kill):
        """Starts a run, has kill(job, its folder) kill it and tell when, resumes it, and says on one line what came of
        it. Returns whether the kill fell inside a save."""
        run = self.folder / "run"
        for _ in range(ATTEMPTS):
            shutil.rmtree(run, ignore_errors=True)
            moment = kill(self.start("run", 10**6, every), run)  # never done by itself
            saved = checkpoints(run)
            if not saved or saved[-1] <= self.steps:
                break
        else:
            raise AssertionError(f"{name}: {ATTEMPTS} runs got past the {self.steps} steps that are compared")
        phase = self.interrupted(run)
        resumed = saved[-1] if saved else 0
        wrong = self.differences(run, resumed, self.finish("run"))
        self.trials += 1
        self.failures += bool(wrong)
        self.phases[phase] += 1
        print(f"{name}: killed {moment}, {f'inside a save ({phase})' if phase else 'outside a save'}, "
              f"{f'resumed from {resumed:2}' if resumed else 'started from step 0'}: "
              f"{'DIFFERS in ' + ', '.join(wrong) if wrong else 'bit-equal'}", flush=True)
        return phase is not None

    def differences(self, run, resumed, text):
        """What of a finished run, which said `text`, is not as it is to be."""
        left = {path.name for path in (run / "checkpoints").iterdir()} - {f"step_{k:09}" for k in checkpoints(run)}
        as_it_should = {
            "the checkpoint from which it resumed":
                f"resuming from run/checkpoints/step_{resumed:09}" in text if resumed else "resuming from" not in text,
            "metrics": step_lines(run) == self.straight,
            "trained state": shards(run, self.steps) == self.shards,
            f"leftovers {sorted(left)}": not left or resumed == self.steps}  # the next save would remove them
        return [what for what, holds in as_it_should.items() if not holds]


def kill_after(ready, delay_s):
    """`delay_s` after ready(folder of the run) holds."""
    def kill(job, run):
        job.wait_until(lambda: ready(run))
        time.sleep(delay_s)
        job.kill()
        return f"after step {last_step(run):2}"
    return kill


def kill_in_save(step, delay_s, aim, chance):
    """`delay_s` after the save of `step` begins and has come to the file `aim`, if one is named."""
    def kill(job, run):
        temporary, done = step_folder(run, step, ".tmp_"), step_folder(run, step)
        job.wait_until(lambda: len(job.ranks()) == RANKS and max(checkpoints(run), default=0) >= step - 1)
        ranks = job.ranks()
        chance.shuffle(ranks)
        spin_until(job, temporary, done)
        begin = time.perf_counter()
        if aim:
            spin_until(job, temporary / aim, temporary / "manifest.json", done)
        time.sleep(delay_s)
        for rank in ranks:  # at once: Job.kill looks for them first
            os.kill(rank, SIGKILL)
        elapsed_s = time.perf_counter() - begin
        job.kill()
        return f"{1e3 * elapsed_s:5.1f} ms into save {step:2}{f' (aimed at its {aim})' if aim else ''}"
    return kill


def torture_small(torture, trials, chance):
    steps = torture.steps
    for k in range(1, steps + 1):
        # Before the next save, so that step k itself is resumed from (the printed step is the one that was).
        kill_at = k + chance.randrange(max(1, min(k, steps - k)))
        kill = kill_after(lambda run, k=k, at=kill_at: k in checkpoints(run) and last_step(run) >= at,
                          chance.uniform(0, 0.02))
        torture.trial(f"k {k:2}", k, kill)
    for i in range(1, trials + 1):
        at = 1 + chance.randrange(steps // 2)
        torture.trial(f"random {i:2}", 1, kill_after(lambda run, at=at: last_step(run) >= at, chance.uniform(0, 0.1)))


def torture_saves(torture, saves, chance):
    """Returns how many kills fell inside a save: `saves`, unless twice as many runs did not bring that about."""
    length_s = torture.save_length_s()
    print(f"a save of {sum(map(len, torture.shards.values())) / 1e6:.0f} MB lasts {1e3 * length_s:.0f} ms", flush=True)
    inside = tried = 0
    while inside < saves and tried < 2 * saves:
        # Evenly over a save, but for every fourth: the manifest is written too fast to be met by chance.
        aim = {3: "manifest.json.tmp", 7: "manifest.json"}.get(tried % 8)
        delay_s = 0 if aim else length_s * ((tried + 0.5) / saves % 1)
        tried += 1
        step = 1 + chance.randrange(torture.steps // 2)
        inside += torture.trial(f"save {tried:2}", 1, kill_in_save(step, delay_s, aim, chance))
    return inside


def main():
    steps, trials, saves = map(int, sys.argv[1:])
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{version}, {RANKS} ranks on {os.cpu_count()} cores")
    print("inside a save:", *(f"{phase:8}  {left}" for phase, left in PHASES.items()), sep="\n  ")
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="olmoe-torture-") as folder:
        small, large = Torture(Path(folder, "small"), steps, SMALL), Torture(Path(folder, "large"), steps, LARGE)
        torture_small(small, trials, chance)
        inside = torture_saves(large, saves, chance)
    done, failures, phases = small.trials + large.trials, small.failures + large.failures, small.phases + large.phases
    by_phase = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES)
    print(f"{done - failures} of {done} killed runs became the run that was not killed. {done - phases[None]} kills "
          f"fell inside a save ({by_phase}), {inside} of them in the runs aimed at one, where {saves} are asked")
    return 1 if failures or inside < saves else 0


if __name__ == "__main__":
    sys.exit(main())

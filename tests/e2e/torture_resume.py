"""Kills a run on two ranks again and again and compares what it becomes with a run that nobody touched, bit for bit.

    tests/e2e/torture_resume.py STEPS TRIALS     (scripts/torture_resume.sh starts it)

For every k up to STEPS, a run that saves every k steps is killed (SIGKILL, mpirun and all ranks) at a random moment after
its first checkpoint; then, TRIALS times, a run that saves every step is killed at a random moment, saving included.
"""
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from support import TINY, Job, checkpoints, last_step, step_lines

RANKS = 2
SEED = 6198


class Torture:
    def __init__(self, folder, steps):
        self.folder, self.steps, self.failures = folder, steps, 0
        self.config = folder / "tiny.yaml"
        self.config.write_text(TINY)
        self.run("straight")
        self.straight = step_lines(folder / "straight")
        if len(self.straight) != steps:
            raise AssertionError(f"{len(self.straight)} lines of metrics for {steps} steps")

    def start(self, run, steps, every):
        return Job(self.folder, [self.config, f"run.folder={run}", f"train.steps={steps}", "train.global_batch_size=32",
                                 f"checkpoint.every_steps={every}"], RANKS)

    def run(self, run):
        """To the end; returns what the program said."""
        job = self.start(run, self.steps, 0)
        code, text = job.wait(), job.text()
        if code != 0:
            raise AssertionError(f"exit code {code}:\n{text}")
        return text

    def trial(self, name, every, ready, delay_s):
        """Starts a run, kills it `delay_s` after ready(its folder), resumes it, and says on one line what came of it."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        job = self.start("run", 10**6, every)  # never done by itself
        job.wait_until(lambda: ready(run))
        time.sleep(delay_s)
        job.kill()
        steps_done, saved, unfinished = last_step(run), checkpoints(run), list(run.glob("checkpoints/.tmp_*"))
        if saved and saved[-1] > self.steps:
            raise AssertionError(f"saved step {saved[-1]} before it was killed, past the {self.steps} compared")
        text = self.run("run")
        resumed = f"resumed from {saved[-1]:2}" if saved else "started anew"
        went_on = not saved or f"checkpoints/step_{saved[-1]:09}" in text
        same = went_on and step_lines(run) == self.straight
        self.failures += not same
        print(f"{name}: killed after step {steps_done:2}{', while saving' if unfinished else ''}, {resumed}: "
              f"{'bit-equal' if same else 'DIFFERS'}", flush=True)


def main():
    steps, trials = int(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="olmoe-torture-") as folder:
        torture = Torture(Path(folder), steps)
        for k in range(1, steps + 1):
            # Before the next save, so that step k itself is resumed from (the printed step is the one that was).
            kill_at = k + chance.randrange(max(1, min(k, steps - k)))
            torture.trial(f"k {k:2}", k, lambda run, k=k, at=kill_at: k in checkpoints(run) and last_step(run) >= at,
                          chance.uniform(0, 0.02))
        for i in range(1, trials + 1):
            at = 1 + chance.randrange(steps // 2)
            torture.trial(f"random {i:2}", 1, lambda run, at=at: last_step(run) >= at, chance.uniform(0, 0.1))
    print(f"{steps + trials - torture.failures} of {steps + trials} killed runs became the run that was not killed")
    return 1 if torture.failures else 0


if __name__ == "__main__":
    sys.exit(main())

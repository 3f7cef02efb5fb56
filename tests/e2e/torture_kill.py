"""Kills runs of one to four ranks at random moments, with asynchronous saves of several periods, starts them again until
they are done, and compares them with the run that nobody touched, bit for bit.

    tests/e2e/torture_kill.py TRIALS [SEED]     (scripts/torture_kill.sh starts it)

Each trial kills (SIGKILL) one random rank, or mpirun, up to three times.
"""
import os
import random
import shutil
import sys
import time
from collections import Counter
from signal import SIGKILL

from support import TINY, Job, checkpoints, last_step, step_lines
from torture import run_trials

STEPS = 24
PERIODS = (1, 2, 3, 5)
MOST_KILLS = 3
# 3 MB of state: an asynchronous save lasts longer than a step.
OVERRIDES = ["model.vocab_size=4096", "model.d_model=64", "train.global_batch_size=8", f"train.steps={STEPS}",
             "checkpoint.keep=2"]


def shards(run):
    return {path.name: path.read_bytes() for path in (run / "checkpoints" / f"step_{STEPS:09}").glob("shard_*")}


class Torture:
    def __init__(self, folder, seed):
        self.folder, self.chance = folder, random.Random(seed)
        self.config = folder / "tiny.yaml"
        self.config.write_text(TINY)
        self.straight, self.length_s = {}, {}
        self.kills, self.lost, self.most_lost = Counter(), 0, 0
        for ranks in range(1, 5):
            begin = time.monotonic()
            job = self.start(f"straight{ranks}", ranks, 5)
            if job.wait() != 0:
                raise AssertionError(job.text())
            self.length_s[ranks] = time.monotonic() - begin
            run = folder / f"straight{ranks}"
            self.straight[ranks] = step_lines(run), shards(run)

    def start(self, run, ranks, every):
        return Job(self.folder, [self.config, f"run.folder={run}", *OVERRIDES, f"checkpoint.every_steps={every}"], ranks)

    def kill(self, job, ranks):
        """Kills a rank or mpirun, and waits until all are gone. Returns which."""
        living = job.ranks()
        target = self.chance.choice([*living, job.process.pid]) if living else job.process.pid
        try:
            os.kill(target, SIGKILL)
        except ProcessLookupError:
            pass
        end = time.monotonic() + 15
        while time.monotonic() < end and (job.process.poll() is None or job.ranks()):
            time.sleep(0.01)
        orphans = job.ranks()
        job.kill()
        if orphans:
            raise AssertionError(f"{len(orphans)} ranks were alive 15 s after the kill")
        return "mpirun" if target == job.process.pid else "rank"

    def trial(self, number):
        ranks, every = self.chance.randint(1, 4), self.chance.choice(PERIODS)
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        wrong, killed = [], []
        for _ in range(self.chance.randint(1, MOST_KILLS)):
            before = checkpoints(run)
            job = self.start("run", ranks, every)
            time.sleep(self.chance.uniform(0.2, 1.1) * self.length_s[ranks])
            if job.process.poll() is not None:
                break
            killed.append(self.kill(job, ranks))
            wrong += self.resumed_wrongly(job.text(), before)
        saved, reached = checkpoints(run), last_step(run)
        job = self.start("run", ranks, every)
        code, text = job.wait(), job.text()
        wrong += self.resumed_wrongly(text, saved)
        if code != 0:
            wrong.append(f"exit code {code}: {text[-400:]}")
        if (step_lines(run), shards(run)) != self.straight[ranks]:
            wrong.append("other metrics or state")
        lost = max(0, reached - (saved[-1] if saved else 0))
        self.kills.update(killed)
        self.lost, self.most_lost = self.lost + lost, max(self.most_lost, lost)
        print(f"trial {number:4}: {ranks} ranks, saves every {every}, killed {', '.join(killed) or 'nothing (it was done)'}; "
              f"{lost} steps trained again: {'WRONG: ' + '; '.join(wrong) if wrong else 'bit-equal'}", flush=True)
        return not wrong

    @staticmethod
    def resumed_wrongly(text, before):
        """A start resumes from the newest checkpoint that was committed before it."""
        if "resuming from" in text and (not before or f"resuming from run/checkpoints/step_{before[-1]:09}" not in text):
            return ["it resumed from another checkpoint than the newest"]
        return ["it began anew"] if before and "new run in" in text else []


def summary(torture):
    return (f"{torture.kills['rank']} kills of a rank, {torture.kills['mpirun']} of mpirun; at most {torture.most_lost} steps "
            "were trained again")


if __name__ == "__main__":
    sys.exit(run_trials(Torture, summary))

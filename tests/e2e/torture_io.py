"""Runs of one to four ranks whose file calls fail, are short, are interrupted or take long, at random; each is started
again until it is done, the last time without faults, and compared with the run that nobody disturbed, bit for bit.

    tests/e2e/torture_io.py TRIALS [SEED]     (scripts/torture_io.sh starts it)

Checked after each start: an exit code of 0 or 4, and 4 only where the log says what the disk did; no checkpoint is called
damaged; metrics count the saves that the log calls failed; checkpoints that were there stay, and what is there is whole.
"""
import json
import random
import shutil
import sys
from collections import Counter

from io_faults import ALL_FILES, environment, failed_saves, shards, without_failures
from support import TINY, Job, checkpoints, step_lines
from torture import run_trials

STEPS = 24
PERIODS = (1, 2, 3, 5)
MOST_STARTS = 4  # with faults
CHECKPOINT = 4
OVERRIDES = ["model.vocab_size=1024", "train.global_batch_size=8", "checkpoint.keep=0"]
PLACES = ("*/shard_*", "*/manifest.json*", "*/.tmp_step_*", "*/step_*", "*/checkpoints", "*/metrics.jsonl", "*/run.lock", "*/run.lock*",
          "*/config.yaml*", ALL_FILES)
EFFECTS = {"open": ("EIO", "EACCES", "EMFILE", "EINTR"), "read": ("EIO", "EINTR", "short"),
           "write": ("EIO", "ENOSPC", "EINTR", "short", "sleep:300"), "fsync": ("EIO", "ENOSPC", "EINTR", "sleep:300"),
           "truncate": ("EIO",), "rename": ("EIO", "ENOSPC"), "close": ("EIO", "EINTR")}
REASONS = ("Input/output error", "No space left on device", "Permission denied", "Too many open files")


class Torture:
    def __init__(self, folder, seed):
        self.folder, self.chance = folder, random.Random(seed)
        self.config = folder / "tiny.yaml"
        self.config.write_text(TINY)
        self.codes, self.hits, self.failures = Counter(), Counter(), 0
        self.straight = {}
        for ranks in range(1, 5):
            job = self.start(f"straight{ranks}", ranks, ["checkpoint.every_steps=1", f"train.steps={STEPS}"])
            if job.wait() != 0:
                raise AssertionError(job.text())
            run = folder / f"straight{ranks}"
            self.straight[ranks] = step_lines(run), {step: shards(run, step) for step in checkpoints(run)}

    def start(self, run, ranks, overrides, variables=None):
        return Job(self.folder, [self.config, f"run.folder={run}", *OVERRIDES, *overrides], ranks, variables)

    def faults(self, ranks):
        for _ in range(self.chance.randint(1, 4)):
            call = self.chance.choice(list(EFFECTS))
            effect, place = self.chance.choice(EFFECTS[call]), self.chance.choice(PLACES)
            if (call, effect) == ("open", "EINTR"):  # no file system interrupts the opening of a folder
                place = "*/metrics.jsonl"
            times = self.chance.choice((1, 2, 5) if effect.startswith("sleep") else (1, 2, 5, 20, 0))
            yield (f"{call} {effect} {place} {self.chance.randint(1, 12)} {times} "
                   f"{self.chance.choice(['*', *range(ranks)])}")

    def wrong_after(self, code, text, before, ranks):
        """What must not be after one start."""
        run = self.folder / "run"
        if code not in (0, CHECKPOINT) and "run.folder: " not in text:
            yield f"exit code {code}: {text[-600:]}"
        if code != 0 and not any(reason in text for reason in REASONS):
            yield f"exit code {code} without a reason: {text[-600:]}"
        if "amaged" in text or "set aside" in text:
            yield f"it speaks of damage: {text[-600:]}"
        there = checkpoints(run)
        if lost := set(before) - set(there):
            yield f"checkpoints {sorted(lost)} are gone"
        yield from (f"checkpoint {step} is another one" for step in there if shards(run, step) != self.straight[ranks][1][step])
        lines = [json.loads(line) for line in step_lines(run)]
        counted = lines[-1].get("checkpoint_failures", 0) if code == 0 and lines else 0
        if counted > len(set(failed_saves(text))):
            yield f"metrics count {counted} failures, the log {failed_saves(text)}"

    def trial(self, number):
        ranks, every = self.chance.randint(1, 4), self.chance.choice(PERIODS)
        overrides = [f"checkpoint.every_steps={every}", f"checkpoint.async={self.chance.choice(('true', 'false'))}"]
        run, hits_file = self.folder / "run", self.folder / "hits"
        shutil.rmtree(run, ignore_errors=True)
        wrong, codes, hits = [], [], Counter()
        starts = self.chance.randint(1, MOST_STARTS)
        for nth in range(1, starts + 1):
            faults = list(self.faults(ranks))
            hits_file.unlink(missing_ok=True)
            before = checkpoints(run)
            job = self.start("run", ranks, [*overrides, f"train.steps={STEPS * nth // starts}"], environment(faults, hits_file, number))
            codes.append(job.wait())
            wrong += [f"{problem} (faults {faults})" for problem in self.wrong_after(codes[-1], job.text(), before, ranks)]
            self.failures += len(failed_saves(job.text()))
            if hits_file.exists():
                hits.update(" ".join(line.split()[1:3]) for line in hits_file.read_text().splitlines())
        job = self.start("run", ranks, [*overrides, f"train.steps={STEPS}"])
        if job.wait() != 0:
            wrong.append(f"exit code {job.process.returncode} without faults: {job.text()[-600:]}")
        if (without_failures(step_lines(run)), shards(run, STEPS)) != (self.straight[ranks][0], self.straight[ranks][1][STEPS]):
            wrong.append("other metrics or state")
        self.codes.update(codes)
        self.hits.update(hits)
        print(f"trial {number:4}: {ranks} ranks, saves every {every}, {overrides[1]}, {sum(hits.values())} hits, exit codes {codes}: "
              f"{'WRONG: ' + '; '.join(wrong) if wrong else 'bit-equal'}", flush=True)
        return not wrong


def summary(torture):
    lines = [f"starts by exit code: {dict(sorted(torture.codes.items()))}; {torture.failures} saves failed; hits:"]
    return "\n".join(lines + [f"  {call:18} {count}" for call, count in sorted(torture.hits.items())])


if __name__ == "__main__":
    sys.exit(run_trials(Torture, summary))

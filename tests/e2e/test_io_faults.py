"""A disk that misbehaves, by a library that is preloaded: calls that fail, transfer less or take long. Training goes on,
checkpoints stay whole, and the run becomes the one that no fault disturbed.

OLMOE_SLOW_DISK_MS says how long a call of the slow disk takes.
"""
import os
import re
import signal
import unittest

from io_faults import (ALL_FILES, IoFaultTest, complaints, complaints_but_for_waits, environment, failed_saves, shards, without_failures)
from support import checkpoints, last_step, step_lines, tree_hash

CHECKPOINT, PREEMPTED = 4, 75
SLOW_MS = int(os.environ.get("OLMOE_SLOW_DISK_MS", "3000"))
SHARD, MANIFEST = "*/.tmp_step_{step:09}/shard_*", "*/.tmp_step_{step:09}/manifest.json"
IO_ERROR, NO_SPACE, TOO_MANY, DENIED = ("Input/output error", "No space left on device", "Too many open files",
                                        "Permission denied")
# Each meets one save: call, effect, path, number of the first matching call, what the log says of it. The first two
# patterns match calls of every save. Up to the first save the run's folder was synced once, for config.yaml; up to the
# third, one checkpoint has got its name.
SAVE_FAULTS = [
    ("fsync", "EIO", "*/run", 2, IO_ERROR),
    ("fsync", "EIO", "*/checkpoints", 2, IO_ERROR),
    ("write", "EIO", SHARD, 1, IO_ERROR),
    ("write", "ENOSPC", SHARD, 3, NO_SPACE),
    ("open", "EMFILE", SHARD, 1, TOO_MANY),
    ("open", "EACCES", SHARD, 1, DENIED),
    ("fsync", "EIO", SHARD, 1, IO_ERROR),
    ("close", "EIO", SHARD, 1, IO_ERROR),
    ("read", "EIO", SHARD, 1, IO_ERROR),
    ("write", "EIO", MANIFEST + ".tmp", 1, IO_ERROR),
    ("write", "ENOSPC", MANIFEST + ".tmp", 1, NO_SPACE),
    ("open", "EMFILE", MANIFEST + ".tmp", 1, TOO_MANY),
    ("fsync", "EIO", MANIFEST + ".tmp", 1, IO_ERROR),
    ("rename", "EIO", MANIFEST, 1, IO_ERROR),
    ("fsync", "EIO", "*/.tmp_step_{step:09}", 1, IO_ERROR),
    ("rename", "EIO", "*/step_{step:09}", 1, IO_ERROR),
]
NAMED_ALL_THE_SAME = 1  # the save whose checkpoint is complete when the fault comes: its name may not be on the disk
EVERY = 2


def step_of(number):
    """Of the save that a fault of SAVE_FAULTS meets: every other one works."""
    return EVERY * (2 * number + 1)


class Saves(IoFaultTest):
    STEPS = EVERY * 2 * (len(SAVE_FAULTS) + 1)  # the last line of metrics has the last failure
    OVERRIDES = (f"train.steps={STEPS}", f"checkpoint.every_steps={EVERY}")

    def faults(self, ranks):
        """What only rank 0 writes meets rank 0, shards meet the last rank."""
        for number, (call, effect, pattern, first, _) in enumerate(SAVE_FAULTS):
            shard_of_last = pattern == SHARD and call != "read"
            yield (f"{call} {effect} {pattern.format(step=step_of(number))} {first} 1 "
                   f"{max(0, ranks - 1) if shard_of_last else 0}")

    def check(self, ranks, mode):
        straight = self.train("straight", *self.OVERRIDES, ranks=ranks)
        code, text = self.disturbed(self.faults(ranks), *self.OVERRIDES, f"checkpoint.async={mode}", ranks=ranks)
        run = self.folder / "run"
        self.assertEqual(code, 0, text)
        self.assertEqual(len(self.hits()), len(SAVE_FAULTS), self.hits())
        failed = [step_of(number) for number in range(len(SAVE_FAULTS))]
        self.assertEqual(failed_saves(text), failed, text)
        for step, fault in zip(failed, SAVE_FAULTS):
            self.assertRegex(text, rf"cannot save step {step}: .*{fault[-1]}.*Training goes on", fault)
        self.assertEqual(self.metrics(self.folder / "run")[-1]["checkpoint_failures"], len(failed))
        there = set(range(EVERY, self.STEPS + 1, EVERY)) - set(failed) | {step_of(NAMED_ALL_THE_SAME)}
        self.assertEqual(self.names(), [f"step_{step:09}" for step in sorted(there)])
        self.assertEqual(without_failures(step_lines(run)), step_lines(straight))
        for step in there:
            self.assertEqual(shards(run, step), shards(straight, step), step)

    def test_each_fault_costs_one_save_and_nothing_else(self):
        for ranks, mode in ((0, "true"), (2, "true"), (2, "false")):
            with self.subTest(ranks=ranks, mode=mode):
                self.check(ranks, mode)
            for name in ("run", "straight"):
                os.rename(self.folder / name, self.folder / f"{name}-{ranks}-{mode}")


class SavesThatEndTheRun(IoFaultTest):
    OVERRIDES = ("train.steps=12", "checkpoint.every_steps=2")

    def check(self, faults, said, left, ranks):
        straight = self.train("straight", *self.OVERRIDES, ranks=ranks)
        code, text = self.disturbed(faults, *self.OVERRIDES, ranks=ranks)
        run = self.folder / "run"
        self.assertEqual(code, CHECKPOINT, text)
        self.assertRegex(text, said)
        self.assertNotIn("last collectives", text)
        self.assertEqual(self.names(), [f"step_{step:09}" for step in left])
        self.train("run", *self.OVERRIDES, ranks=ranks)
        self.assertEqual(step_lines(run), step_lines(straight))
        self.assertEqual(shards(run, 12), shards(straight, 12))

    def test_three_shards_in_a_row(self):
        self.check(["fsync EIO */.tmp_step_*/shard_* 2 3 1"],
                   "cannot save step 8: .*shard_00001.*Input/output error.*failure 3 in a row, so the run ends", [2], ranks=2)

    def test_three_manifests_in_a_row(self):
        self.check(["rename EIO */manifest.json 2 3 0"],
                   "cannot save step 8: .*manifest.json.*Input/output error.*failure 3 in a row, so the run ends", [2], ranks=0)

    def test_the_last_save(self):
        self.check(["write ENOSPC */.tmp_step_000000012/shard_* 2 1 1"],
                   "cannot save step 12: .*shard_00001.*No space left on device", [2, 4, 6, 8, 10], ranks=2)


class SmallCalls(IoFaultTest):
    def test_short_transfers_and_interrupted_calls_are_not_noticed(self):
        faults = [f"{call} EINTR {ALL_FILES} 1 0 *" for call in ("open", "read", "write", "fsync", "close")]
        faults += [f"{call} short {ALL_FILES} 1 0 *" for call in ("read", "write")]
        overrides = ("checkpoint.every_steps=2", "schedule.decay_steps=4")
        for ranks in (0, 2):
            straight = self.train(f"straight{ranks}", "train.steps=8", *overrides, ranks=ranks)
            for steps in (4, 8):  # the second one resumes
                code, text = self.disturbed(faults, f"train.steps={steps}", *overrides, ranks=ranks)
                self.assertEqual((code, complaints_but_for_waits(text)), (0, []), text)
                expected = {f"{rank} {' '.join(fault.split()[:2])}" for fault in faults for rank in range(max(1, ranks))}
                if steps == 4:  # a new run, of which rank 1 reads no file
                    expected -= {"1 read EINTR", "1 read short"}
                self.assertEqual(set(self.hits()), expected)
            self.assertIn("resuming from run/checkpoints/step_000000004", text)
            run = self.folder / "run"
            self.assertEqual(step_lines(run), step_lines(straight))
            for step in (2, 4, 6, 8):
                self.assertEqual(shards(run, step), shards(straight, step))
            self.assertEqual(self.names(), [f"step_{step:09}" for step in (2, 4, 6, 8)])
            self.assertFalse((run / "run.lock").exists())
            os.rename(run, self.folder / f"run{ranks}")


class OtherFiles(IoFaultTest):
    """metrics.jsonl and the lease."""

    def test_lines_of_metrics_wait_and_none_is_written_half(self):
        # The third line is written half, the rest fails, it cannot be cut off at once, nor with the next line.
        faults = ["write short */metrics.jsonl 3 1 0", "write ENOSPC */metrics.jsonl 4 1 0", "truncate EIO */metrics.jsonl 1 2 0",
                  "write EIO */metrics.jsonl 12 3 0"]
        for ranks in (0, 2):
            straight = self.train(f"straight{ranks}", "train.steps=20", ranks=ranks)
            code, text = self.disturbed(faults, "train.steps=20", ranks=ranks)
            self.assertEqual(code, 0, text)
            self.assertEqual(len(self.hits()), 7)
            self.assertEqual(text.count("lines of metrics wait in memory until they can be written"), 2, text)
            self.assertEqual(text.count("run/metrics.jsonl is written again: no line is lost"), 2, text)
            self.assertEqual(step_lines(self.folder / "run"), step_lines(straight))
            os.rename(self.folder / "run", self.folder / f"run{ranks}")

    def test_metrics_that_cannot_be_read_are_not_taken_for_none(self):
        (self.folder / "held_out.npy").write_bytes(bytes(2 * 16 * 4))
        best = ("evaluation.paths=[held_out.npy]", "evaluation.every_steps=1", "checkpoint.keep_best=1",
                "checkpoint.keep_best_metric=eval/held_out/loss")
        run = self.train("run", "train.steps=2", *best)
        before = (run / "metrics.jsonl").read_bytes()
        # Lines are read when the file is opened (its text, then its end), then for keep_best_metric.
        for fault in ("open EACCES */metrics.jsonl 1 1 0", "read EIO */metrics.jsonl 1 1 0", "read EIO */metrics.jsonl 3 1 0"):
            code, text = self.disturbed([fault], "train.steps=4", *best)
            self.assertEqual((code, len(self.hits())), (CHECKPOINT, 1), text)
            self.assertRegex(text, "metrics.jsonl': (Permission denied|Input/output error)")
            self.assertEqual((run / "metrics.jsonl").read_bytes(), before)
        self.train("run", "train.steps=4", *best)

    def test_a_lease_that_cannot_be_read_costs_a_save(self):
        overrides = ("train.steps=12", "checkpoint.every_steps=2")
        straight = self.train("straight", *overrides, ranks=2)
        # A renewal, every 10 s, may meet one of the two.
        code, text = self.disturbed(["read EIO */run.lock 2 2 0"], *overrides, ranks=2)
        self.assertEqual((code, self.hits()), (0, ["0 read EIO"] * 2), text)
        failed = failed_saves(text)
        self.assertIn(len(failed), (1, 2), text)
        self.assertRegex(text, "cannot read '.*run.lock': Input/output error: it may be another run's by now, so nothing is saved")
        self.assertEqual(checkpoints(self.folder / "run"), [step for step in range(2, 13, 2) if step not in failed])
        self.assertEqual(without_failures(step_lines(self.folder / "run")), step_lines(straight))
        self.assertEqual(shards(self.folder / "run", 12), shards(straight, 12))


class Reading(IoFaultTest):
    def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(self):
        for ranks in (0, 2):
            last = max(0, ranks - 1)
            run = self.train("run", "train.steps=4", "checkpoint.every_steps=2", ranks=ranks)
            before = tree_hash(run / "checkpoints")
            for fault, said in (
                    (f"read EIO *step_*/shard_* 1 1 {last}", "shard_0000[01].safetensors': Input/output error"),
                    (f"read EIO *step_*/shard_* {2 + last} 0 {last}", "shard_0000[01].safetensors': Input/output error"),
                    (f"open EMFILE *step_*/shard_* 2 1 {last}", "shard_0000[01].safetensors': Too many open files"),
                    (f"read EIO *step_*/manifest.json 1 0 {last}", "manifest.json': Input/output error")):
                with self.subTest(ranks=ranks, fault=fault):
                    code, text = self.disturbed([fault], "train.steps=6", ranks=ranks)
                    self.assertEqual(code, CHECKPOINT, text)
                    self.assertTrue(self.hits(), "no call was hit")
                    self.assertRegex(text, said)
                    self.assertNotIn("amaged", text)
                    self.assertNotIn("aside", text)
                    self.assertEqual(tree_hash(run / "checkpoints"), before)
            self.train("run", "train.steps=6", ranks=ranks)
            self.assertEqual(checkpoints(run), [2, 4, 6])
            os.rename(run, self.folder / f"run{ranks}")


class SlowDisk(IoFaultTest):
    def slow(self, step, rank):
        """One file of a save takes long to be synced."""
        return environment([f"fsync sleep:{SLOW_MS} */.tmp_step_{step:09}/shard_* 1 1 {rank}"], self.hits_file)

    def assert_saved(self, text, step):
        """Returns how long training waited, s."""
        found = re.search(rf"saved run/checkpoints/step_{step:09} in ([0-9.]+) s, ([0-9.]+) s of them waited for", text)
        self.assertIsNotNone(found, text)
        self.assertGreaterEqual(float(found[1]), SLOW_MS / 1000)
        print(f"{SLOW_MS} ms: {found[0]}", flush=True)
        return float(found[2])

    def test_training_goes_on_beside_it_and_the_watchdog_is_quiet(self):
        job = self.start(self.config, "run.folder=run", "train.steps=1000000", "checkpoint.cadence=[{until_step: 5, every_steps: 5}]",
                         f"run.hang_timeout_s={max(2, SLOW_MS // 2000)}", ranks=2, environment=self.slow(5, 1))
        job.wait_until(lambda: checkpoints(self.folder / "run") == [5])
        reached = last_step(self.folder / "run")
        job.wait_until(lambda: "saved run/checkpoints/step_000000005" in job.text())
        os.kill(job.ranks()[0], signal.SIGUSR1)
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        text = job.text()
        self.assertLess(self.assert_saved(text, 5), SLOW_MS / 2000)
        self.assertGreaterEqual(reached, 5 + 3)
        print(f"{reached - 5} steps were trained meanwhile", flush=True)
        self.assertEqual(complaints(text), [])

    def test_the_next_save_waits_and_says_so(self):
        # No third save is due, which might wait for the second one where ten steps take less time than a save.
        overrides = ("train.steps=40", "checkpoint.every_steps=0", "checkpoint.cadence=[{until_step: 20, every_steps: 10}]")
        straight = self.train("straight", *overrides, ranks=2)
        code, text = self.outcome(self.config, "run.folder=run", *overrides, ranks=2, environment=self.slow(10, 0))
        self.assertEqual(code, 0, text)
        run = self.folder / "run"
        waits = "step 20 is due to be saved, and step 10 is not saved yet: waiting for it"
        self.assertEqual([line.partition(" warning ")[2] for line in complaints(text)], [waits])
        said = [text.index(words) for words in ("step 20/40 ", waits, "saved run/checkpoints/step_000000010", "step 21/40 ")]
        self.assertEqual(said, sorted(said), text)
        self.assertGreater(self.assert_saved(text, 10), 0.5)
        self.assertEqual(checkpoints(run), [10, 20, 40])
        self.assertEqual(step_lines(run), step_lines(straight))
        self.assertEqual(shards(run, 40), shards(straight, 40))


if __name__ == "__main__":
    unittest.main()

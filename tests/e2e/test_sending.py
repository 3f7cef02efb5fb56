"""Checkpoints that a command sends elsewhere, beside training: what arrives, what stays, and what a command can do to
the run (nothing)."""
import json
import os
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

from support import PROGRAM, ProgramTest, checkpoints, last_step, step_lines, tree_hash

PREEMPTED = 75
CHECKPOINT_PROGRAM = PROGRAM.with_name("olmoe-checkpoint")


def lives(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def step_name(step):
    return f"step_{step:09d}"


class SendingTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.run_folder, self.remote = self.folder / "run", self.folder / "remote"
        self.remote.mkdir()
        self.copy = f'cp -r "$OLMOE_CHECKPOINT" {self.remote}/'

    def arguments(self, after_save, *overrides):
        return (self.config, "run.folder=run", "checkpoint.every_steps=2", f"checkpoint.after_save={after_save}", *overrides)

    def states(self):
        """Of each step in after_save.json."""
        path = self.run_folder / "after_save.json"
        return {one["step"]: one["state"] for one in json.loads(path.read_text())["steps"]} if path.exists() else {}

    def arrived(self):
        return sorted(int(path.parent.name[len("step_"):]) for path in self.remote.glob("step_*/manifest.json"))

    def finished(self, arguments, ranks=0, code=0):
        got, text = self.outcome(*arguments, ranks=ranks)
        self.assertEqual(got, code, text)
        return text


class Sending(SendingTest):
    def test_every_checkpoint_is_sent_and_a_run_resumes_from_a_copy(self):
        text = self.finished(self.arguments(self.copy, "checkpoint.keep=1", "train.steps=6"), ranks=2)
        self.assertIn("step 6: checkpoint.after_save done in", text)
        self.assertEqual(self.arrived(), [2, 4, 6])
        self.assertEqual(self.states(), {2: "sent", 4: "sent", 6: "sent"})
        self.assertEqual(checkpoints(self.run_folder), [6])
        for step in (2, 4, 6):
            verified = subprocess.run([CHECKPOINT_PROGRAM, "verify", self.remote / step_name(step)], capture_output=True, text=True)
            self.assertEqual(verified.returncode, 0, verified.stderr)
        self.assertEqual(tree_hash(self.remote / step_name(6)), tree_hash(self.run_folder / "checkpoints" / step_name(6)))
        straight = step_lines(self.run_folder)
        # Another place: the step's folder and the metrics up to it are all that a run needs.
        shutil.copytree(self.remote / step_name(4), self.folder / "again" / "checkpoints" / step_name(4))
        shutil.copy(self.run_folder / "metrics.jsonl", self.folder / "again")
        self.assertEqual(last_step(self.train("again", "train.steps=6", ranks=2)), 6)
        self.assertEqual(step_lines(self.folder / "again"), straight)

    def test_a_command_that_fails_twice_is_tried_again(self):
        flaky = f'echo $OLMOE_STEP >> {self.remote}/tries; test $(wc -l < {self.remote}/tries) -gt 2 && {self.copy}'
        text = self.finished(self.arguments(flaky, "train.steps=4"), ranks=2)
        self.assertIn("checkpoint.after_save ended with exit code 1 (try 2 of 20, the next in 2 s)", text)
        self.assertEqual((self.remote / "tries").read_text(), "2\n2\n2\n4\n")
        self.assertEqual(self.arrived(), [2, 4])

    def test_commands_that_hang_or_kill_cannot_harm_the_run(self):
        straight = self.train("straight", "train.steps=6", ranks=2)
        harm = ("case $OLMOE_STEP in 2) kill -KILL 0;; 4) sleep 600;; *) kill -TERM -- -$$ ; kill -INT 0;; esac")
        started = time.monotonic()
        text = self.finished(self.arguments(harm, "train.steps=6", "checkpoint.after_save_tries=1",
                                            "checkpoint.after_save_limit_s=2"), ranks=2)
        self.assertLess(time.monotonic() - started, 100)
        self.assertIn("ended with signal 9 (Killed)", text)
        self.assertIn("ended with its time limit", text)
        self.assertEqual(self.states(), {2: "failed", 4: "failed", 6: "failed"})
        self.assertEqual(step_lines(self.run_folder), step_lines(straight))

    def test_a_local_checkpoint_leaves_when_its_copy_is_verified(self):
        for verify, stays in (("false", [2, 4, 6]), (f'cmp "$OLMOE_CHECKPOINT"/manifest.json {self.remote}/'
                                                     '$(basename "$OLMOE_CHECKPOINT")/manifest.json', [6])):
            with self.subTest(verify=verify):
                self.finished(self.arguments(self.copy, f"checkpoint.verify_copy={verify}", "checkpoint.keep=1",
                                             "checkpoint.delete_local=after_verified", "checkpoint.after_save_tries=1",
                                             "train.steps=6"), ranks=2)
                self.assertEqual(set(self.states().values()), {"failed" if len(stays) > 1 else "verified"})
                self.assertEqual(checkpoints(self.run_folder), stays)
                self.assertEqual(self.arrived(), [2, 4, 6])

    def test_what_needs_another_command_is_refused(self):
        for overrides in (("checkpoint.verify_copy=true",), ("checkpoint.delete_local=after_verified",),
                          ("checkpoint.delete_local=after_verified", "checkpoint.after_save=true")):
            text = self.finished((self.config, "run.folder=run", *overrides), code=2)
            self.assertIn(overrides[0].split("=")[0] + ": ", text)
            self.assertFalse(self.run_folder.exists())


class Interrupted(SendingTest):
    def slow(self, *overrides):
        """A job with a command that takes ten minutes, unless the folder `remote` has a file `fast`."""
        slow = f"echo $$ > {self.remote}/pid; test -e {self.remote}/fast || sleep 600; {self.copy}"
        return self.arguments(slow, *overrides)

    def started(self, job):
        pid = self.remote / "pid"
        job.wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        process = int(pid.read_text())
        self.addCleanup(lambda: lives(process) and os.killpg(process, signal.SIGKILL))
        self.assertTrue(lives(process))
        return process

    def test_a_run_that_a_signal_stops_does_not_wait_and_the_next_start_sends(self):
        job = self.start(*self.slow("train.steps=100000", "train.global_batch_size=24"), ranks=2)
        process = self.started(job)
        asked = time.monotonic()
        os.kill(job.ranks()[1], signal.SIGUSR1)
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        self.assertLess(time.monotonic() - asked, 30)
        self.assertFalse(lives(process))
        self.assertIn("The next start of this run sends it", job.text())
        (self.remote / "fast").touch()
        steps = last_step(self.run_folder)
        text = self.finished(self.slow(f"train.steps={steps}", "train.global_batch_size=24"), ranks=2)
        self.assertIn("nothing to do", text)
        self.assertEqual(self.arrived(), checkpoints(self.run_folder))
        self.assertIn(steps, self.arrived())

    def test_a_signal_ends_the_wait_at_the_end_of_a_run(self):
        job = self.start(*self.slow("train.steps=2"), ranks=2)
        process = self.started(job)
        job.wait_until(lambda: "waiting up to 600 s until checkpoint.after_save has sent step 2" in job.text())
        os.kill(job.ranks()[1], signal.SIGUSR1)
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        self.assertFalse(lives(process))
        (self.remote / "fast").touch()
        self.finished(self.slow("train.steps=2"), ranks=2)
        self.assertEqual(self.arrived(), [2])

    def test_a_run_does_not_wait_longer_than_it_is_told(self):
        text = self.finished(self.slow("train.steps=2", "checkpoint.after_save_wait_s=1", "run.hang_timeout_s=30"), ranks=2)
        self.assertIn("waited 1 s for checkpoints that are not sent", text)
        self.assertEqual(self.states(), {2: "waiting"})

    def test_a_wait_longer_than_the_hang_timeout_is_no_hang(self):
        slow = f"sleep 12; {self.copy}"
        self.finished(self.arguments(slow, "train.steps=2", "run.hang_timeout_s=5"), ranks=2)
        self.assertEqual(self.arrived(), [2])

    def test_a_command_that_a_killed_run_left_is_ended_by_the_next_start(self):
        job = self.start(*self.slow("train.steps=100000", "train.global_batch_size=24"), ranks=2)
        process = self.started(job)
        job.wait_until(lambda: f'"pid":{process},' in (self.run_folder / "after_save.json").read_text())
        job.kill()
        self.assertTrue(lives(process))
        (self.remote / "fast").touch()
        steps = checkpoints(self.run_folder)[-1]
        text = self.finished(self.slow(f"train.steps={steps}", "train.global_batch_size=24"), ranks=2)
        self.assertIn(f"ended process {process}, a command of checkpoint.after_save that an earlier start", text)
        self.assertFalse(lives(process))
        self.assertEqual(self.arrived(), checkpoints(self.run_folder))


if __name__ == "__main__":
    unittest.main()

"""A disk that is full, or a file that cannot be written: what is said, what is left, and how the run resumes."""
import subprocess
import unittest

from support import PROGRAM, ProgramTest, checkpoints, last_step

CHECKPOINT = 4


class FullDisk(ProgramTest):
    def limited(self, kib, *overrides):
        """A run that may write files of so many KiB at most."""
        program = ("bash", "-c", f'set -o pipefail; (ulimit -f {kib}; exec "$0" "$@") 2>&1 | cat', PROGRAM)
        return self.outcome(self.config, "run.folder=run", *overrides, program=program)

    def assert_said(self, text, *words):
        for word in words:
            self.assertIn(word, text)
        self.assertNotIn("last collectives", text)

    def test_a_save_that_fails_leaves_nothing_and_the_next_start_resumes(self):
        run = self.train("run", "train.steps=2")
        shard = next((run / "checkpoints").glob("*/shard_*")).read_bytes()
        values = len(shard) - 8 - int.from_bytes(shard[:8], "little")  # room for these alone, which the start looks at
        code, text = self.limited(-(-values // 1024), "train.steps=4")
        self.assertEqual(code, CHECKPOINT, text)
        self.assert_said(text, "cannot save step 4", "shard_00000.safetensors", "File too large", "are needed there",
                         "are free in run/checkpoints", "ulimit -f")
        self.assertEqual([path.name for path in (run / "checkpoints").iterdir()], ["step_000000002"])
        self.train("run", "train.steps=4")
        self.assertEqual(checkpoints(run), [2, 4])

    def test_a_run_goes_on_without_the_saves_that_fail_and_ends_at_the_third(self):
        run = self.train("run", "train.steps=2")
        shard = next((run / "checkpoints").glob("*/shard_*")).read_bytes()
        values = len(shard) - 8 - int.from_bytes(shard[:8], "little")
        code, text = self.limited(-(-values // 1024), "train.steps=9", "checkpoint.every_steps=1")
        self.assertEqual(code, CHECKPOINT, text)
        self.assert_said(text, "cannot save step 3", "Training goes on", "failure 2 of 3 in a row", "cannot save step 5",
                         "failure 3 in a row, so the run ends")
        self.assertEqual([path.name for path in (run / "checkpoints").iterdir()], ["step_000000002"])

    def test_a_config_that_cannot_be_written(self):
        (self.folder / "run").mkdir()
        (self.folder / "run" / "config.yaml.tmp").symlink_to("/dev/full")
        code, text = self.outcome(self.config, "run.folder=run", "train.steps=2")
        self.assertEqual(code, CHECKPOINT, text)
        self.assert_said(text, "config.yaml.tmp", "No space left on device", "start the same command again")
        self.assertFalse((self.folder / "run" / "config.yaml.tmp").exists())
        self.train("run", "train.steps=2")

    def test_a_start_that_has_nothing_new_to_write_needs_no_room(self):
        run = self.train("run", "train.steps=2")
        code, text = self.limited(0, "train.steps=2")
        self.assertEqual(code, 0, text)
        self.assertEqual(checkpoints(run), [2])

    def test_metrics_lines_that_cannot_be_written_wait_to_the_end(self):
        for ranks in (0, 2):
            with self.subTest(ranks=ranks):
                run = self.folder / f"run{ranks}"
                run.mkdir()
                (run / "metrics.jsonl").symlink_to("/dev/full")
                code, text = self.outcome(self.config, f"run.folder={run}", "train.steps=9", ranks=ranks)
                self.assertEqual(code, CHECKPOINT, text)
                self.assert_said(text, "metrics.jsonl': No space left on device", "9 lines of metrics are lost", "Step 9 is saved",
                                 "are free in")
                self.assertEqual(checkpoints(run), [9])
                (run / "metrics.jsonl").unlink()
                self.train(run.name, "train.steps=11", ranks=ranks)
                self.assertEqual(last_step(run), 11)

    def small_disk(self, mib):
        """A folder that is a file system of its own."""
        disk = self.folder / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", disk], capture_output=True).returncode:
            self.skipTest("this user may mount no file system")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        return disk

    def test_what_a_killed_save_left_on_a_full_disk_makes_room_for_the_next_start(self):
        large = ("model.vocab_size=16000", "model.d_model=32", "checkpoint.keep=1", "checkpoint.save_last=true")  # 12 MiB
        run = self.small_disk(24) / "run"
        code, text = self.outcome(self.config, f"run.folder={run}", "train.steps=2", *large)
        self.assertEqual(code, 0, text)
        job = self.start(self.config, f"run.folder={run}", "train.steps=100000", *large)
        job.wait_until(lambda: last_step(run) >= 4)
        job.kill()  # its lease stays
        left = run / "checkpoints" / ".tmp_step_000000009"
        left.mkdir()
        with self.assertRaises(OSError), open(left / "shard_00000.safetensors", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        code, text = self.outcome(self.config, f"run.folder={run}", "train.steps=2", *large)
        self.assertEqual(code, 0, text)
        self.assertIn("taking over", text)
        self.assertIn("nothing to do: step 2 of 2 is done", text)
        self.assertEqual([path.name for path in (run / "checkpoints").iterdir()], ["step_000000002"])

    def test_a_save_that_fails_on_a_full_disk_is_made_up_for_once_there_is_room(self):
        large = ("model.vocab_size=20000", "model.d_model=32", "checkpoint.keep=1", "checkpoint.save_last=true")  # 15 MiB
        disk = self.small_disk(24)
        run = disk / "run"
        for steps, expected in ((2, 0), (4, CHECKPOINT), (4, CHECKPOINT)):  # two do not fit, however often it starts
            code, text = self.outcome(self.config, f"run.folder={run}", f"train.steps={steps}", *large)
            self.assertEqual(code, expected, text)
            self.assertEqual([path.name for path in (run / "checkpoints").iterdir()], ["step_000000002"])
        self.assert_said(text, "will not fit into the", "cannot save step 4", "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=48m", disk], check=True)
        code, text = self.outcome(self.config, f"run.folder={run}", "train.steps=4", *large)
        self.assertEqual(code, 0, text)
        self.assertEqual(checkpoints(run), [4])

    def test_leftovers_of_a_killed_save_do_not_stay(self):
        run = self.train("run", "train.steps=2")
        left = run / "checkpoints" / ".tmp_step_000000009"
        left.mkdir()
        (left / "shard_00000.safetensors").write_bytes(b"half")
        self.train("run", "train.steps=2")
        self.assertFalse(left.exists())


if __name__ == "__main__":
    unittest.main()

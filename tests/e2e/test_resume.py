"""A run that was killed resumes from its newest checkpoint as if nothing had happened, on any number of ranks."""
import shutil
import unittest

from support import ProgramTest, checkpoints, step_lines

STEPS = 16
SLOW = "train.global_batch_size=24"  # enough work in a step to be killed in the middle of


class Killed(ProgramTest):
    def kill_after(self, every):
        """A run that saves every so many steps, killed with all its ranks once the first checkpoint is there."""
        run = self.folder / f"killed_{every}"
        job = self.start(self.config, f"run.folder={run}", "train.steps=100000", f"checkpoint.every_steps={every}", SLOW,
                         ranks=2)
        job.wait_until(lambda: checkpoints(run))
        job.kill()
        return run

    def test_resumes_bit_for_bit(self):
        straight = self.train("straight", f"train.steps={STEPS}", SLOW, ranks=2)
        self.assertEqual(len(step_lines(straight)), STEPS)
        for every in (2, 5, 7):
            with self.subTest(saved_every=every):
                run = self.kill_after(every)
                newest = checkpoints(run)[-1]
                self.assertLess(newest, STEPS)
                code, text = self.outcome(self.config, f"run.folder={run}", f"train.steps={STEPS}", SLOW, ranks=2)
                self.assertEqual(code, 0, text)
                self.assertIn(f"resuming from {run}/checkpoints/step_{newest:09}", text)
                self.assertEqual(step_lines(run), step_lines(straight))


class OtherRanks(ProgramTest):
    def follow(self, dtype, tolerance):
        """Saves on two ranks, resumes on 1, 3 and 4."""
        straight = self.train("straight", "train.steps=8", f"train.compute_dtype={dtype}", ranks=2)
        saved = self.train("saved", "train.steps=3", f"train.compute_dtype={dtype}", ranks=2)
        self.assertEqual(checkpoints(saved), [3])
        for ranks in (1, 3, 4):
            with self.subTest(ranks=ranks):
                run = self.folder / f"ranks_{ranks}"
                shutil.copytree(saved, run)
                self.train(run.name, "train.steps=8", f"train.compute_dtype={dtype}", ranks=ranks)
                self.assertEqual(step_lines(run)[:3], step_lines(saved), "steps that were done stay as they were")
                self.assert_close(run, straight, tolerance)

    def test_float64(self):
        self.follow("float64", 1e-9)

    def test_float32(self):
        self.follow("float32", 1e-5)


class OtherLength(ProgramTest):
    def test_a_longer_run_resumes_where_the_short_one_ended(self):
        longer = self.train("longer", "train.steps=9")
        run = self.train("run", "train.steps=4")
        self.train("run", "train.steps=9")
        self.assertEqual(step_lines(run), step_lines(longer))

    def test_a_run_may_end_within_its_warm_up(self):
        run = self.train("run", "train.steps=4", "schedule.warmup_steps=100", "schedule.decay_steps=0")
        rates = [line["lr"] for line in self.metrics(run)]
        self.assertEqual(len(rates), 4)
        self.assertEqual(rates, sorted(set(rates)), "the rate rises through the warm-up")
        self.assertLess(rates[-1], 0.01 * 0.15, "4 of 100 steps of warm-up from 0.1 of the peak")

    def test_steps_in_no_checkpoint_are_set_aside_by_a_run_that_starts_anew(self):
        run = self.train("run", "train.steps=3", "checkpoint.save_last=false")
        steps, before = step_lines(run), (run / "metrics.jsonl").read_text()
        code, text = self.outcome(self.config, "run.folder=run", "train.steps=3", "checkpoint.save_last=false")
        self.assertEqual(code, 0, text)
        self.assertIn("the file is kept as run/metrics.jsonl.old-1", text)
        self.assertEqual((run / "metrics.jsonl.old-1").read_text(), before)
        self.assertEqual(step_lines(run), steps)
        self.train("run", "train.steps=3", "checkpoint.save_last=false")
        self.assertEqual((run / "metrics.jsonl.old-1").read_text(), before)
        self.assertTrue((run / "metrics.jsonl.old-2").exists())

    def test_a_finished_run_stays_as_it_is(self):
        run = self.train("run", "train.steps=4")
        before = step_lines(run), checkpoints(run)
        code, text = self.outcome(self.config, "run.folder=run", "train.steps=3")
        self.assertEqual(code, 0, text)
        self.assertIn("nothing to do", text)
        self.assertEqual((step_lines(run), checkpoints(run)), before)


if __name__ == "__main__":
    unittest.main()

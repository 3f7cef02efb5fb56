"""A run that diverges keeps its last good checkpoint; constants that would make it diverge are refused."""
import json
import shutil
import unittest

from support import BARE_MPIRUN, ProgramTest, checkpoints, tree_hash

CONFIG, NON_FINITE = 2, 72
KEEP_ONE = ("checkpoint.keep=1", "optimizer.beta1=0")
NO_WARMUP = "schedule.warmup_steps=0"


class Divergence(ProgramTest):
    def diverge(self, dtype, rate, ranks):
        """Three good steps, a fourth that diverges, and what the next start makes of it."""
        run = self.train("run", "train.steps=3", f"train.compute_dtype={dtype}", *KEEP_ONE, ranks=ranks)
        before = tree_hash(run / "checkpoints")
        arguments = (self.config, "run.folder=run", f"train.compute_dtype={dtype}", *KEEP_ONE)
        code, text = self.outcome(*arguments, "train.steps=4", f"optimizer.lr={rate}", NO_WARMUP, ranks=ranks,
                                  mpirun=BARE_MPIRUN)
        self.assertEqual(code, NON_FINITE, text)
        self.assertIn("step 4: ", text)
        self.assertNotIn("last collectives", text)
        self.assertEqual(tree_hash(run / "checkpoints"), before, "step 3 stays as it was")
        code, text = self.outcome(*arguments, "train.steps=6", ranks=ranks)
        self.assertEqual(code, 0, text)
        self.assertEqual(checkpoints(run), [6])
        for line in self.metrics(run):
            self.assertNotIn(None, line.values(), "a number that is not finite was written")
        shutil.rmtree(run)

    def test_rates_that_are_finite_where_they_are_used(self):
        for dtype, rate in (("float32", "1e38"), ("float32", "1e30"), ("float64", "1e300")):
            for ranks in (0, 2):
                with self.subTest(dtype=dtype, rate=rate, ranks=ranks):
                    self.diverge(dtype, rate, ranks)

    def test_a_rate_that_is_infinite_where_it_is_used(self):
        run = self.train("run", "train.steps=3", "checkpoint.keep=1")
        before = tree_hash(run)
        for ranks in (0, 2):
            code, text = self.outcome(self.config, "run.folder=run", "train.steps=4", "optimizer.lr=1e300", ranks=ranks,
                                      mpirun=BARE_MPIRUN)
            self.assertEqual(code, CONFIG, text)
            self.assertIn("optimizer.lr: 1e+300 is infinite in fp32", text)
            self.assertEqual(tree_hash(run), before)

    def test_a_new_run_that_diverges_at_once(self):
        code, text = self.outcome(self.config, "train.steps=1", "optimizer.lr=1e30", NO_WARMUP)
        self.assertEqual(code, NON_FINITE, text)
        self.assertFalse((self.folder / "run" / "checkpoints").exists())


class Metrics(ProgramTest):
    def test_garbage_in_metrics_is_set_aside(self):
        run = self.train("run", "train.steps=3")
        metrics = run / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True)
        metrics.write_text(lines[0] + "\0\0 not JSON\n" + "".join(lines[1:]))
        code, text = self.outcome(self.config, "run.folder=run", "train.steps=4")
        self.assertEqual(code, 0, text)
        self.assertIn("1 lines are not JSON objects, the first is line 2: moved to run/metrics.jsonl.damaged", text)
        self.assertEqual([json.loads(line)["step"] for line in metrics.read_text().splitlines()], [1, 2, 3, 4])
        self.assertEqual((run / "metrics.jsonl.damaged").read_text(), "\0\0 not JSON\n")


if __name__ == "__main__":
    unittest.main()

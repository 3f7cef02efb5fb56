"""olmoe-doctor: figures of every rank, a verdict, and an exit code that a script can trust."""
import unittest

from support import PROGRAM, REPOSITORY, ProgramTest, tree_hash

DOCTOR = PROGRAM.parent / "olmoe-doctor"


class Doctor(ProgramTest):
    def examine(self, *arguments, **how):
        self.assertTrue(DOCTOR.is_file(), f"no program {DOCTOR}: build it")
        return self.outcome(*arguments, program=(DOCTOR,), **how)

    def test_two_ranks_may_start(self):
        before = tree_hash(self.folder)
        # Two ranks of a shared test machine may differ by any factor; a rank that hangs or fails is still no go.
        code, text = self.examine(self.config, "--slow-below", "0", ranks=2)
        self.assertEqual(code, 0, text)
        for column in ("compute GFLOP/s", "copy GB/s", "write MB/s", "read MB/s", "shard all-gather GB/s",
                       "shard reduce-scatter GB/s", "shard all-to-all GB/s"):
            self.assertIn(column, text)
        self.assertRegex(text, r"(?m)^     0 .* cores, .* GB free")
        self.assertRegex(text, r"(?m)^     1 ")
        self.assertRegex(text, r"(?m)^checkpoints: .* each, at most 1 at one time, .* are free on the disk$")
        self.assertRegex(text, r"(?m)^go$")
        self.assertEqual(tree_hash(self.folder), before, "files are left behind")

    def test_a_slow_rank_is_named_and_stops_the_run(self):
        # Below the whole of the faster one's figure: of two ranks the slower is always slow.
        code, text = self.examine(self.config, "--slow-below", "1", ranks=2)
        self.assertEqual(code, 1, text)
        self.assertRegex(text, r"(?m)^rank [01] \(.*\): compute \S+ GFLOP/s is below 1 x the median, \S+ GFLOP/s$")
        self.assertRegex(text, r"(?m)^no go, reasons: \d+$")

    def test_every_axis_of_the_mesh(self):
        code, text = self.examine(self.config, "--slow-below", "0", "parallel.replicate=2", "parallel.shard=2", ranks=4)
        self.assertEqual(code, 0, text)
        self.assertIn("replicate all-gather GB/s", text)
        self.assertIn("shard all-gather GB/s", text)

    def test_alone_and_without_a_place_to_write(self):
        code, text = self.examine(REPOSITORY / "configs" / "tiny-cpu.yaml", "run.folder=run")
        self.assertEqual(code, 0, text)
        self.assertNotIn("all-gather", text)
        self.write_config("no folder", "occupied")
        code, text = self.examine(self.config, "run.folder=occupied/run")
        self.assertEqual(code, 1, text)
        self.assertIn("rank 0", text)
        self.assertIn("run.folder", text)

    def test_a_wrong_config_is_no_verdict(self):
        code, text = self.examine(self.config, "train.steps=0")
        self.assertEqual(code, 2, text)
        code, text = self.examine(self.config, "--slow-below", "2")
        self.assertEqual(code, 2, text)


if __name__ == "__main__":
    unittest.main()

"""The curve does not depend on how many ranks train, nor on how they share the model."""
import unittest

from support import ProgramTest, step_lines


class Ranks(ProgramTest):
    def setUp(self):
        super().setUp()
        self.alone = self.train("alone", "train.compute_dtype=float64")

    def test_any_number_of_ranks_follows_one_curve(self):
        for ranks in (1, 2, 3, 4):
            with self.subTest(ranks=ranks):
                run = self.train(f"ranks_{ranks}", "train.compute_dtype=float64", ranks=ranks)
                self.assert_close(run, self.alone, 1e-12)
        self.assertEqual(len(self.metrics(self.alone)), 5)
        self.assertEqual(step_lines(self.folder / "ranks_1"), step_lines(self.alone), "one rank with and without mpirun")

    def test_hybrid_sharding_and_zero_2_follow_it_too(self):
        for name, layout in {"hybrid": ("parallel.replicate=2", "parallel.shard=2"),
                             "hybrid_zero_2": ("parallel.replicate=2", "parallel.shard=2", "parallel.zero_stage=2"),
                             "recompute": ("parallel.shard=4", "train.recompute=full"),
                             "selective": ("parallel.shard=4", "train.recompute=selective")}.items():
            with self.subTest(layout=name):
                run = self.train(name, "train.compute_dtype=float64", *layout, ranks=4)
                self.assert_close(run, self.alone, 1e-12)

    def test_gradients_are_those_of_one_rank(self):
        step = ("train.compute_dtype=float64", "train.steps=1")
        alone = self.train("step_alone", *step)
        for ranks, layout in ((1, ()), (2, ()), (3, ()), (4, ()), (4, ("parallel.replicate=2", "parallel.shard=2"))):
            with self.subTest(ranks=ranks, layout=layout):
                run = self.train(f"step_{ranks}_{len(layout)}", *step, *layout, ranks=ranks)
                self.assert_same_gradients(run, alone, 1e-12)

    def test_two_runs_are_bit_equal(self):
        again = self.train("again", "train.compute_dtype=float64")
        self.assertEqual(step_lines(again), step_lines(self.alone))
        first, second = (self.train(name, ranks=2) for name in ("first", "second"))
        self.assertEqual(step_lines(first), step_lines(second), "float32 on two ranks")


if __name__ == "__main__":
    unittest.main()

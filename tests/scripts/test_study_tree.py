"""A tree of real runs that is killed and resumed: results, tokens and FLOPs are those of one that nobody touched."""
import os
import signal
import unittest

from study_case import RealProgramTest

# Two trunks and three forks of each.
TREE = """\
overrides: {checkpoint: {every_steps: 10, keep: 0}}
launch: {retry_wait_s: 0}
runs:
  - {name: trunk}
  - {name: early, parent: trunk, parent_step: 20, overrides: {optimizer.lr: 0.001, train.steps: 40}}
  - {name: late, parent: trunk, parent_step: 40, overrides: {optimizer.lr: 0.001}}
  - {name: batch, parent: trunk, parent_step: 20, overrides: {train.global_batch_size: 8, train.init_progress: restart, train.steps: 15}}
grid: {model.load_balancing_weight: [0.01, 0.1]}
"""


class Tree(RealProgramTest):
    def test_a_tree_that_is_killed_resumes_with_the_same_results_and_counts_its_tokens_through_the_forks(self):
        self.run_study(self.study(TREE, "other.yaml", "other"))
        expected = self.results("other")
        self.assertEqual(len(expected), 8)
        path = self.study(TREE)
        trunk, late = "trunk-load_balancing_weight=0.01", "late-load_balancing_weight=0.1"
        first = self.start("run", path)
        self.wait_until(lambda: self.steps_of(trunk) >= 15, first)
        os.kill(first.process.pid, signal.SIGKILL)
        self.kill_runs()
        second = self.start("run", path)
        self.wait_until(lambda: self.steps_of(late) >= 1, second)
        self.kill_runs()
        self.assertEqual(second.wait(), 0, second.text())
        self.assertEqual(self.results(), expected)
        step = 4 * 32
        for weight in (0.01, 0.1):
            per_token = self.result(f"trunk-load_balancing_weight={weight}")["flops_per_token"]
            for run, fork, steps, own in (("trunk", 0, 60, 60), ("early", 20, 20, 20), ("late", 40, 20, 20), ("batch", 20, 15, 30)):
                result = self.result(f"{run}-load_balancing_weight={weight}")
                self.assertEqual((result["steps"], result["tokens"]), (steps, (fork + own) * step), run)
                self.assertEqual(result["flops"], (fork + own) * step * per_token)
                self.assertEqual(result["series"]["tokens"][0], fork * step + own * step // steps)
                self.assertEqual(result["parent"]["tokens"] if fork else 0, fork * step)
                self.assertIn("max_expert_load", result["series"])


if __name__ == "__main__":
    unittest.main()

"""olmoe-plan: every layout of a run with what is predicted of it, as a table and as JSON."""
import json
import unittest

from support import PROGRAM, REPOSITORY, ProgramTest, tree_hash

PLAN = PROGRAM.parent / "olmoe-plan"
CONFIG = REPOSITORY / "configs" / "olmoe-1b-7b.yaml"


class Plan(ProgramTest):
    def plan(self, *arguments):
        self.assertTrue(PLAN.is_file(), f"no program {PLAN}: build it")
        return self.outcome(*arguments, program=(PLAN,))

    def test_a_table_with_the_best_first(self):
        before = tree_hash(self.folder)
        code, text = self.plan(CONFIG, "--gpus", "64", "--top", "3")
        self.assertEqual(code, 0, text)
        self.assertIn("6.919 G, 1.282 G active", text)
        self.assertIn("3 shown", text)
        self.assertRegex(text, r"(?m)^best: parallel\.replicate=\d+ parallel\.shard=\d+ ")
        self.assertEqual(tree_hash(self.folder), before)
        code, everything = self.plan(CONFIG, "--gpus", "64", "--all")
        self.assertEqual(code, 0, everything)
        self.assertRegex(everything, r"(?m)^ +64 +1 +1 +3 .* no ")
        self.assertGreater(len(everything.splitlines()), len(text.splitlines()) + 100)

    def test_json_of_several_gpus(self):
        code, text = self.plan(CONFIG, "--gpus", "16", "--gpu", "h200,a100", "--gpu", "b200", "--json",
                               "train.micro_batch_size=2")
        self.assertEqual(code, 0, text)
        plans = json.loads(text)
        self.assertEqual([plan["gpu"] for plan in plans], ["h200", "a100", "b200"])
        fitting = {}
        for plan in plans:
            self.assertEqual(plan["gpus"], 16)
            steps = [layout["step_s"] for layout in plan["layouts"] if layout["fits"]]
            self.assertEqual(steps, sorted(steps))
            fitting[plan["gpu"]] = len(steps)
        layouts = len(plans[0]["layouts"])
        self.assertLess(fitting["a100"], fitting["h200"])  # 80, 141 and 180 GB
        self.assertLess(fitting["h200"], layouts)          # a whole copy of the state is 124 GB
        self.assertEqual(fitting["b200"], layouts)

    def test_the_best_line_is_what_a_run_takes(self):
        code, text = self.plan(CONFIG, "--gpus", "64")
        self.assertEqual(code, 0, text)
        best = next(line for line in text.splitlines() if line.startswith("best: ")).split()[1:]
        code, text = self.outcome(CONFIG, "--dry-run", "--ranks", "64", "--gpu", "h100", *best)
        self.assertEqual(code, 0, text)
        self.assertIn("predicted step", text)

    def test_bad_arguments(self):
        for arguments, expected in (((CONFIG, "--gpu", "h800"), "known are a100, b200, h100, h200"),
                                    ((CONFIG, "--gpus", "0"), "--gpus"),
                                    ((CONFIG, "--gpus", "5000"), "--gpus"),
                                    ((CONFIG, "--top", "none"), "--top"),
                                    ((CONFIG, "train.compute_dtype=float32"), "train.compute_dtype"),
                                    ((CONFIG, "train.no_such_key=1"), "no_such_key"),
                                    ((self.folder / "none.yaml",), "none.yaml"),
                                    ((), "config")):
            with self.subTest(arguments=arguments):
                code, text = self.plan(*arguments)
                self.assertEqual(code, 2, text)
                self.assertIn(expected, text)


if __name__ == "__main__":
    unittest.main()

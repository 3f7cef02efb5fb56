"""olmoe-plan: every layout of a run with what is predicted of it, as a table and as JSON."""
import json
import re
import unittest

from support import PROGRAM, REPOSITORY, ProgramTest, tree_hash

PLAN = PROGRAM.parent / "olmoe-plan"
CONFIG = REPOSITORY / "configs" / "olmoe-1b-7b.yaml"
PAGE = REPOSITORY / "docs" / "parallelism.md"


def step_with(layout, expert_kernels, cuda_graph):
    """The step with these kernels and such a graph, in ms; "-" where a run would be refused."""
    found = next(variant for variant in layout["variants"]
                 if (variant["expert_kernels"], variant["cuda_graph"]) == (expert_kernels, cuda_graph))
    return f"{found['step_s'] * 1e3:,.1f}" if "step_s" in found else "-"


def table_row(layout):
    """A layout as a line of the page's tables."""
    sent = {kind: value / 1e9 for kind, value in layout["sent_bytes"].items()}
    cells = [str(layout[key]) for key in ("replicate", "shard", "expert", "zero_stage", "recompute")]
    cells += [f"{layout['memory_bytes']['total'] / 1e9:.1f}", f"{layout['step_s'] * 1e3:,.1f}",
              " / ".join((step_with(layout, "fused", False), step_with(layout, "unfused", True),
                          step_with(layout, "fused", True))),
              f"{layout['exposed_s'] * 1e3:,.1f}", f"{layout['tokens_per_s_per_gpu']:,.0f}",
              f"{layout['mfu_causal'] * 100:.1f} / {layout['mfu_full_attention'] * 100:.1f} %",
              f"{sent['gather_dense'] + sent['gather_experts']:.2f}",
              f"{sent['reduce_dense'] + sent['reduce_experts']:.2f}",
              f"{sent['replicas']:.2f}", f"{sent['exchange']:.2f}"]
    return "| " + " | ".join(cells) + " |"


def run_row(plan):
    """The whole run in a plan's best layout, as a line of the page's table, without the first cell."""
    best = plan["layouts"][0]
    parts = [f"replicate {best['replicate']}"] if best["replicate"] > 1 else []
    parts += [f"shard {best['shard']}"] + ([f"expert {best['expert']}"] if best["expert"] > 1 else [])
    hours = plan["steps"] * best["step_s"] / 3600
    return f"| {', '.join(parts)}, ZeRO-{best['zero_stage']} | {hours / 24:.1f} | {hours * plan['gpus']:,.0f} |"


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
        self.assertRegex(text, r"(?m)^checkpoints: 77\.33 GiB each, at most \d+ at one time, .* are free on the disk$")
        self.assertRegex(text, r"step ms +fused +graph +both +exposed")
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

    def plan_of(self, gpus, *overrides):
        code, text = self.plan(CONFIG, "--gpus", gpus, "--json", *overrides)
        self.assertEqual(code, 0, text)
        return json.loads(text)[0]

    def test_the_tables_of_the_page_are_what_is_planned(self):
        page = PAGE.read_text()
        tables = re.findall(r"--gpus (\d+)` \((\d+) layouts, (\d+) fit[^)]*\):\n\n\|.*\n\|.*\n((?:\|.*\n)+)", page)
        self.assertEqual([gpus for gpus, *_ in tables], ["8", "64", "256"])
        runs = {"8": (), "64": (), "256": (), "1,024, micro-batches of 1": ("train.micro_batch_size=1",)}
        for gpus, layouts, fit, rows in tables:
            with self.subTest(gpus=gpus):
                planned = self.plan_of(gpus)["layouts"]
                fitting = [table_row(layout) for layout in planned if layout["fits"]]
                self.assertEqual((int(layouts), int(fit)), (len(planned), len(fitting)))
                shown = rows.splitlines()
                self.assertEqual(shown[0], fitting[0])
                self.assertEqual(shown, [row for row in fitting if row in shown])
        for gpus, overrides in runs.items():
            with self.subTest(run=gpus):
                self.assertIn(f"| {gpus} {run_row(self.plan_of(gpus.split(', ')[0].replace(',', ''), *overrides))}\n", page)

    def test_a_graph_of_the_step_leaves_no_experts_on_other_ranks(self):
        plan = self.plan_of("8", "train.cuda_graph=true")
        self.assertEqual({layout["expert"] for layout in plan["layouts"]}, {1})

    def test_experts_that_blocks_share_are_kept_and_sent_once(self):
        def of(plan):
            return next(layout for layout in plan["layouts"] if (layout["shard"], layout["expert"], layout["zero_stage"],
                                                                 layout["recompute"]) == (64, 1, 3, "none"))
        usual, shared = self.plan_of("64"), self.plan_of("64", "model.share_experts=true")
        experts = 64 * 3 * 2048 * 1024  # of a block
        self.assertEqual(usual["parameters"]["total"] - shared["parameters"]["total"], 15 * experts)
        self.assertEqual(shared["parameters"]["active"], shared["parameters"]["total"])  # 16 choices of 8 reach all 64
        self.assertEqual(shared["flops_per_token"], usual["flops_per_token"])
        self.assertEqual(of(shared)["sent_bytes"]["gather_experts"], experts * 2 * 63 // 64)
        self.assertEqual(of(shared)["memory_bytes"]["activations"], of(usual)["memory_bytes"]["activations"])
        self.assertLess(of(shared)["memory_bytes"]["total"], of(usual)["memory_bytes"]["total"])

    def test_a_width_for_each_block(self):
        narrow_and_wide = f"model.layer_widths={[512] * 8 + [1536] * 8}"
        usual, listed = self.plan_of("64"), self.plan_of("64", narrow_and_wide)
        self.assertEqual(listed["parameters"], usual["parameters"])
        self.assertEqual(listed["flops_per_token"], usual["flops_per_token"])
        code, text = self.plan(CONFIG, "--kernels", narrow_and_wide)
        self.assertNotEqual(code, 0, text)
        self.assertIn("--kernels: one layer stands for all, but model.layer_widths", text)

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

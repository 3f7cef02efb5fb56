"""The model of single GPU kernels: held against published figures, and against the tables of docs/roofline.md.

OLMOE_UPDATE_DOCS=1 writes these tables anew."""
import importlib
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("OLMOE_TRAIN", REPOSITORY / "build" / "olmoe-train")).resolve().parent
sys.path.insert(0, str(REPOSITORY / "scripts/gpu"))
kernel_model, published_layers, gpu_predictions = map(importlib.import_module,
                                                      ("kernel_model", "published_layers", "predictions"))
PAGE = REPOSITORY / "docs" / "roofline.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n)((?:\|.*\n)+)")
READING = 4  # TFLOP/s, to which charts were read


class Model(unittest.TestCase):
    def setUp(self):
        self.planner = kernel_model.Planner(BUILD / "olmoe-plan")

    def test_published_layers_lie_within_the_range_that_is_stated(self):
        found = kernel_model.residuals(self.planner)
        self.assertEqual(len(found), 24)
        for shape, way, published, predicted in found:
            with self.subTest(shape=shape, way=way):
                self.assertLessEqual(predicted["slow"], published)
                self.assertGreaterEqual(predicted["fast"], published)

    def test_the_fit_favours_no_direction_and_no_side(self):
        """What was fitted, by least squares, is right in the mean; what was not is no worse than the range of one of
        the constants alone."""
        off = {(shape[2] >= published_layers.FITTED_FROM_WIDTH): [] for shape in published_layers.SONIC_MOE}
        for shape, _, published, predicted in kernel_model.residuals(self.planner):
            off[shape[2] >= published_layers.FITTED_FROM_WIDTH].append(kernel_model.off_by(published, predicted))
        self.assertLess(abs(sum(off[True])) / len(off[True]), 0.02)
        self.assertLess(max(map(abs, off[False])), 0.10)

    def test_unfused_experts_are_about_between_published_ones_built_like_them(self):
        """Nothing was fitted to these."""
        for shape, way, pair, predicted in kernel_model.between(self.planner):
            with self.subTest(shape=shape, way=way):
                self.assertGreaterEqual(predicted["fast"], pair[0] - READING)
                self.assertLessEqual(predicted["slow"], pair[1] + READING)
                self.assertLess(abs(kernel_model.outside(pair, predicted)), 0.05)

    def test_the_tables_of_the_page_are_what_is_predicted(self):
        tables, page = kernel_model.tables(self.planner), PAGE.read_text()
        self.assertEqual(sorted(name for _, name, _ in TABLE.findall(page)), sorted(tables))
        fresh = TABLE.sub(lambda found: found[1] + "\n".join(tables[found[2]]) + "\n", page)
        if os.environ.get("OLMOE_UPDATE_DOCS") == "1":
            PAGE.write_text(fresh)
        self.assertEqual(fresh, PAGE.read_text(), "OLMOE_UPDATE_DOCS=1 writes the tables anew")

    def test_the_check_on_a_gpu_knows_every_attention_by_its_name(self):
        answer = self.planner.ask(kernel_model.CONFIG)
        self.assertEqual([attention["form"] for attention in answer["attention"]], list(gpu_predictions.ATTENTION))
        kinds = {gpu_predictions.kind_of(step) for step in answer["steps"] if step["state"] == "built"}
        self.assertLessEqual({"unfused", "fused", "flash_any_order", "cudnn", "cudnn_any_order"}, kinds)

    def test_ablations_are_held_against_what_epilogues_are_predicted_to_cost(self):
        layer = next(layer for layer in self.planner.ask(kernel_model.CONFIG)["layers"]
                     if layer["state"] == "built" and layer["form"] != "unfused")
        share = {kernel["kernel"]: kernel.get("epilogue_share") for way in kernel_model.WAYS for kernel in layer[way]["kernels"]}
        row = next(line for line in PAGE.read_text().splitlines() if line.startswith("| `ablations`"))
        stated = dict(re.findall(r"([a-z][a-z ]*) ([\d.]+) %", row))
        self.assertEqual(stated, {name: f"{100 * share[name]:.1f}" for name in
                                  ("up", "down backward", "down gradient", "up gradient")})

    def test_the_script_says_that_it_predicts(self):
        done = subprocess.run([sys.executable, REPOSITORY / "scripts/gpu/kernel_model.py", "--plan", self.planner.program],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("predicted: no GPU has confirmed any of these figures", done.stdout)
        self.assertIn("| fused, as first compiled | replaced |", done.stdout)

    def test_a_program_that_is_not_there_is_an_error(self):
        done = subprocess.run([sys.executable, REPOSITORY / "scripts/gpu/kernel_model.py", "--plan", "none"],
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("none", done.stderr)


if __name__ == "__main__":
    unittest.main()

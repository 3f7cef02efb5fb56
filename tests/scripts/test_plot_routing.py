"""scripts/plot_routing.py draws synthetic counts, with the right numbers in them, and says what is wrong with other files."""
import html
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

import routing_counts

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "plot_routing.py"
sys.path.append(str(ROOT / "scripts"))

from routing.analysis import read_analysis  # noqa: E402
from routing.figures import MOST_RIBBONS, all_figures, ribbons  # noqa: E402


class PlotRouting(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.file = cls.folder / "routing.safetensors"
        cls.arrays = routing_counts.counted(*routing_counts.synthetic_choices())
        routing_counts.write_safetensors(cls.file, cls.arrays, routing_counts.metadata())
        cls.figures = {figure.name: figure for figure in all_figures(read_analysis(cls.file))}

    def plot(self, file, *more):
        return subprocess.run([sys.executable, SCRIPT, file, *more], capture_output=True, text=True)

    def test_draws_every_figure_and_a_page_of_its_own(self):
        done = self.plot(self.file)
        self.assertEqual(done.returncode, 0, done.stderr)
        out = self.folder / "routing"
        for name in self.figures:
            self.assertEqual((out / f"{name}.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n", name)
        self.assertEqual(len(done.stdout.splitlines()), len(self.figures) + 1)
        text = (out / "index.html").read_text()
        self.assertEqual(text.count("<svg class=\"chart\""), len(self.figures))
        self.assertNotIn("http", text)
        self.assertNotIn("nan", text)
        tips = [html.unescape(tip) for tip in re.findall(r'data-tip="([^"]*)"', text)]
        share = 100 * self.arrays["saturation.top_k"][0, 2]
        self.assertIn(f"layer 2, step 10: {share:.4g}", tips)
        self.assertIn("uniform: 25", tips)

    def test_saturation_ends_at_100_and_grows(self):
        lines = self.figures["saturation_top_k"].lines
        self.assertEqual([label for label, _, _ in lines], [f"layer {layer}" for layer in range(4)])
        for _, steps, values in lines:
            self.assertEqual((list(steps), values[-1]), ([10, 100, 400], 100))
            self.assertTrue((np.diff(values) > 0).all())

    def test_bars_of_domains_are_shares_of_tokens_with_their_uniform_line(self):
        figure = self.figures["domains_share_layer_1"]
        self.assertEqual((figure.level, [label for label, _ in figure.lines]), (25, list(routing_counts.DOMAINS)))
        counts, tokens = self.arrays["load.counts"][-1, 2, 1], self.arrays["load.tokens"][-1, 2]
        np.testing.assert_allclose(figure.lines[2][1], 100 * counts / tokens)
        self.assertAlmostEqual(sum(figure.lines[2][1]), 400)
        self.assertEqual(self.figures["domains_share_top_1_layer_0"].level, 6.25)

    def test_co_activation_is_of_the_rows_expert(self):
        figure = self.figures["coactivation_layer_3"]
        chosen = [int(expert) for expert in figure.categories]
        pairs, counts = self.arrays["coactivation.pairs"][3], self.arrays["load.counts"][-1, :, 3].sum(axis=0)
        np.testing.assert_allclose(figure.matrix, 100 * (pairs / counts[:, None])[np.ix_(chosen, chosen)])

    def test_histograms_of_the_vocabulary_count_all_frequent_ids(self):
        for _, heights in self.figures["vocabulary_input"].lines:
            self.assertAlmostEqual(sum(heights), 100)

    def test_ribbons_lie_within_their_experts(self):
        matrix = self.figures["flow_1_3"].matrix
        self.assertAlmostEqual(matrix.sum(), 1)
        drawn = ribbons(matrix)
        self.assertEqual(len(drawn), MOST_RIBBONS)
        left, right = np.cumsum(matrix.sum(axis=1)), np.cumsum(matrix.sum(axis=0))
        for i, j, from_top, to_top, height in drawn:
            self.assertLessEqual(from_top + height, left[i] + 1e-12)
            self.assertGreaterEqual(from_top, left[i] - matrix.sum(axis=1)[i] - 1e-12)
            self.assertLessEqual(to_top + height, right[j] + 1e-12)

    def test_drops_are_percent_of_assignments_at_a_position(self):
        lines = self.figures["drops_layer_0"].lines
        expected = 100 * self.arrays["drops.assignments"][1, 0] / (24 * 4)
        self.assertEqual(lines[1][0], "github")
        np.testing.assert_allclose(lines[1][2], expected)
        self.assertGreater(expected[-1], expected[0])

    def test_draws_the_statistics_that_are_there(self):
        some = self.folder / "some.safetensors"
        arrays = {name: values for name, values in self.arrays.items() if name.startswith("flow.")}
        routing_counts.write_safetensors(some, arrays, routing_counts.metadata())
        done = self.plot(some, "--output", self.folder / "some-figures")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({path.name for path in (self.folder / "some-figures").iterdir()},
                         {"index.html", "flow_0_1.png", "flow_1_3.png"})

    def test_says_what_is_wrong_with_a_file(self):
        def refused(content, words):
            file = self.folder / "bad.safetensors"
            file.write_bytes(content)
            done = self.plot(file)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, "^error: ")
            self.assertIn(words, done.stderr)

        refused(b"no", "not a safetensors file")
        refused(self.file.read_bytes()[:100], "not a safetensors file, or cut short")
        routing_counts.write_safetensors(self.folder / "other.safetensors", {"a": np.ones(2)}, {})
        refused((self.folder / "other.safetensors").read_bytes(), "no layers: it is no analysis")
        routing_counts.write_safetensors(self.folder / "other.safetensors", {"a": np.ones(2)}, routing_counts.metadata())
        refused((self.folder / "other.safetensors").read_bytes(), "no statistic")
        self.assertIn("No such file", self.plot(self.folder / "none.safetensors").stderr)


if __name__ == "__main__":
    unittest.main()

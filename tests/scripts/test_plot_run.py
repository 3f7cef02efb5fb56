"""scripts/plot_run.py draws a picture of good metrics and says what is wrong with others."""
import json
import resource
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "plot_run.py"


def step_line(step, loss):
    line = {"step": step, "tokens": step * 10, "loss": loss, "load_balancing_loss": 1.1, "router_z_loss": 2.0,
            "grad_norm": 0.5, "lr": 1e-3, "tokens_per_s": 100.0}
    return json.dumps(line) + "\n"


class PlotRun(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.run_folder = Path(scratch.name)

    def plot(self, text=None):
        if text is not None:
            (self.run_folder / "metrics.jsonl").write_text(text)
        return subprocess.run([sys.executable, SCRIPT, self.run_folder], capture_output=True, text=True)

    def assert_refused(self, done, words):
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "^error: ")
        self.assertIn(words, done.stderr)
        self.assertFalse((self.run_folder / "plot.png").exists())

    def test_draws_steps_evaluations_and_a_gap(self):
        text = step_line(1, 5.0) + step_line(2, None) + step_line(3, 4.0)
        done = self.plot(text + '{"step":3,"eval/prose_heldout/loss":4.5}\n{"step":4,"lo')
        self.assertEqual((done.returncode, done.stdout), (0, f"{self.run_folder}/plot.png\n"), done.stderr)
        self.assertEqual((self.run_folder / "plot.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_says_what_is_missing(self):
        self.assert_refused(self.plot(), "no such file")
        self.assert_refused(self.plot(""), "no training step")
        self.assert_refused(self.plot('{"step":3,"eval/a/loss":4.5}\n'), "no training step")

    def test_names_the_damaged_line(self):
        self.assert_refused(self.plot(step_line(1, 5.0) + "garbage\n" + step_line(2, 5.0)), "metrics.jsonl:2:")
        self.assert_refused(self.plot(step_line(1, 5.0) + "[1]\n"), "metrics.jsonl:2: not an object with a step")

    def test_a_picture_that_cannot_be_written_leaves_nothing(self):
        (self.run_folder / "metrics.jsonl").write_text(step_line(1, 5.0))
        command = [sys.executable, SCRIPT, self.run_folder]
        for name in ("plot.png", "plot.pdf"):
            done = subprocess.run([*command, "--output", self.run_folder / name], capture_output=True, text=True,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
            self.assert_refused(done, f"{name}: cannot be written: File too large; choose another --output")
        for name, words in (("plot.absent", "is not supported"), ("absent/plot.png", "cannot be written: No such file")):
            done = subprocess.run([*command, "--output", self.run_folder / name], capture_output=True, text=True)
            self.assert_refused(done, words)
        self.assertEqual([path.name for path in self.run_folder.iterdir()], ["metrics.jsonl"])

    def test_metrics_that_are_no_text(self):
        (self.run_folder / "metrics.jsonl").write_bytes(step_line(1, 5.0).encode() + b"\xff\xfe\n")
        self.assert_refused(self.plot(), "metrics.jsonl:2:")


if __name__ == "__main__":
    unittest.main()

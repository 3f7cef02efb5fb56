"""The tiny model learns its generated data, and metrics.jsonl has every step in full."""
import json
import unittest

from support import ProgramTest

KEYS = ["step", "tokens", "loss", "load_balancing_loss", "router_z_loss", "max_expert_load", "expert_load_variation", "dead_experts", "router_entropy", "dropped_assignments", "grad_norm",
        "lr", "tokens_per_s", "peak_memory_bytes"]


def digits(number):
    """Significant digits of a number as text: "-1.250e-05" gives "125"."""
    return number.lower().partition("e")[0].replace(".", "").strip("-0") or "0"


class Learning(ProgramTest):
    def test_the_loss_falls(self):
        # The first of 16 tokens and an eighth of the others are random, the rest follow from the token before: an
        # untrained model is at ln 64 = 4.16, and a perfect one below 1.
        for ffn in ("moe", "dense"):
            with self.subTest(ffn=ffn):
                run = self.train(ffn, f"model.ffn={ffn}", "train.steps=60", "train.global_batch_size=16",
                                 "train.micro_batch_size=8", "schedule.decay_steps=80")
                losses = [line["loss"] for line in self.metrics(run)]
                self.assertAlmostEqual(losses[0], 4.16, delta=0.15)
                self.assertLess(sum(losses[-5:]) / 5, losses[0] - 1.5)

    def test_a_line_for_each_step(self):
        run = self.train("run", "train.steps=6")
        lines = (run / "metrics.jsonl").read_text().splitlines()
        for step, line in enumerate(lines, 1):
            numbers = json.loads(line)
            self.assertEqual(list(numbers), KEYS)
            self.assertEqual((numbers["step"], numbers["tokens"]), (step, step * 6 * 16))
            self.assertGreater(numbers["tokens_per_s"], 0)
            self.assertGreaterEqual(numbers["max_expert_load"], 1)
        self.assertEqual(len(lines), 6)

    def test_numbers_are_written_in_full(self):
        run = self.train("run", "train.compute_dtype=float64")
        texts = [text for line in (run / "metrics.jsonl").read_text().splitlines()
                 for key, text in json.loads(line, parse_float=str, parse_int=str).items()
                 if key not in ("step", "tokens", "peak_memory_bytes")]
        for text in texts:
            self.assertEqual(digits(text), digits(repr(float(text))))
        self.assertGreater(sum(len(digits(text)) >= 15 for text in texts), len(texts) // 2, "rounded before writing")


if __name__ == "__main__":
    unittest.main()

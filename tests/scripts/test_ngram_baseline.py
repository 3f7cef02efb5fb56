"""scripts/ngram_baseline.py: probabilities against plain counting, known entropies, and no look at held-out data."""
import importlib.util
import math
import random
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ngram_baseline.py"


def load_script():
    specification = importlib.util.spec_from_file_location("ngram_baseline", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


ngram = load_script()


def second_order_source(length, seed):
    """Each of 4 ids follows from the two before it, but for one in five, which is any."""
    generator = random.Random(seed)
    ids = [0, 1]
    while len(ids) < length:
        ruled = (2 * ids[-2] + ids[-1] + 1) % 4
        ids.append(generator.randrange(4) if generator.random() < 0.2 else ruled)
    return np.array(ids)


class NgramBaselineTest(unittest.TestCase):
    def test_parts_equal_plain_counting(self):
        generator = random.Random(5)
        ids = np.array([generator.randrange(3) for _ in range(200)])
        model = ngram.Trigram([ids], 5)
        places = range(2, len(ids))
        single = Counter(ids[i] for i in places)
        pair = Counter((ids[i - 1], ids[i]) for i in places)
        triple = Counter((ids[i - 2], ids[i - 1], ids[i]) for i in places)
        for a, b, c in [(0, 1, 2), (2, 2, 2), (1, 0, 4), (0, 4, 1), (4, 1, 0)]:
            unigram = single[c] / 198
            in_b = sum(pair[b, x] for x in range(5))
            bigram = pair[b, c] / in_b if in_b else unigram
            in_ab = sum(triple[a, b, x] for x in range(5))
            trigram = triple[a, b, c] / in_ab if in_ab else bigram
            parts = model.parts(np.array([a, b, c]))[0]
            np.testing.assert_allclose(parts, [trigram, bigram, unigram, 1 / 5], rtol=1e-12)

    def test_probabilities_sum_to_one_in_every_context(self):
        model = ngram.train([second_order_source(50000, 1)], 6)
        for a in range(6):
            for b in range(6):
                total = sum(math.exp(-model.nats(np.array([a, b, c]))[0]) for c in range(6))
                self.assertAlmostEqual(total, 1, places=12)

    def test_a_second_order_source_reaches_its_entropy(self):
        model = ngram.train([second_order_source(200000, 1)], 4)
        entropy = -(0.85 * math.log(0.85) + 3 * 0.05 * math.log(0.05))
        nats = model.nats(second_order_source(100000, 2)).mean()
        self.assertLess(abs(nats - entropy), 0.01)

    def test_noise_costs_its_entropy_and_no_less(self):
        generator = np.random.default_rng(0)
        model = ngram.train([generator.integers(0, 257, 300000)], 257)
        nats = model.nats(generator.integers(0, 257, 100000)).mean()
        self.assertLess(abs(nats - math.log(257)), 0.01)

    def test_interpolation_beats_each_part_alone(self):
        text = Path(random.__file__).read_bytes() + Path(subprocess.__file__).read_bytes()
        ids = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        model = ngram.train([ids[:-8000]], 257)
        heldout = ids[-8000:]
        parts = model.parts(heldout)
        for order in range(4):
            alone = -np.log(np.maximum(parts[:, order], 1e-6)).mean()
            self.assertLess(model.nats(heldout).mean(), alone - 0.05)

    def test_expectation_maximisation_finds_the_mixture(self):
        generator = np.random.default_rng(3)
        table = generator.dirichlet(np.ones(8), size=3)
        weights = np.array([0.6, 0.1, 0.2, 0.1])
        rows = np.vstack([table, np.full(8, 1 / 8)])
        drawn = generator.choice(8, size=200000, p=weights @ rows)
        found = ngram.fit_weights(rows[:, drawn].T) @ rows
        np.testing.assert_allclose(found, weights @ rows, atol=0.01)

    def run_script(self, *arguments):
        return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)

    def test_the_program_prints_files_and_overall(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("train.npy", "a.npy", "b.npy")]
            for path, length, seed in zip(paths, (100000, 1002, 3002), (1, 2, 3)):
                second_order_source(length, seed).astype("<u2").tofile(path)
            done = self.run_script(paths[0], "--heldout", *paths[1:])
            self.assertEqual(done.returncode, 0, done.stderr)
            lines = [line.split() for line in done.stdout.splitlines()]
            self.assertEqual([line[-1] for line in lines], [str(paths[1]), str(paths[2]), "overall"])
            self.assertEqual([int(line[4]) for line in lines], [1000, 3000, 4000])
            a, b, overall = (float(line[0]) for line in lines)
            self.assertAlmostEqual(overall, (a + 3 * b) / 4, places=3)

            # Measuring one file more changes nothing for the others: weights come from training tokens alone.
            alone = self.run_script(paths[0], "--heldout", paths[1]).stdout.split()
            self.assertEqual(alone[0], lines[0][0])

    def test_bad_files_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.npy"
            np.array([1, 2, 300, 4], dtype="<u2").tofile(path)
            done = self.run_script(path, "--heldout", path)
            self.assertEqual(done.returncode, 1)
            self.assertIn("a.npy: id 300 at token 2 is outside the vocabulary of 257", done.stderr)
            np.zeros(100, dtype="<u2").tofile(path)
            self.assertIn("fewer than 40960 training tokens", self.run_script(path, "--heldout", path).stderr)

    def test_ids_of_another_width_and_files_cut_short_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.npy"
            text = Path(folder) / "a.txt"
            text.write_bytes(b"text " * 20000)
            subprocess.run([sys.executable, SCRIPT.with_name("tokenize.py"), text, "--tokenizer", "bytes", "--dtype", "uint32",
                            "--output", path], check=True, capture_output=True)
            self.assertEqual(self.run_script(path, "--heldout", path, "--dtype", "uint32").returncode, 0)
            counted = f"a.npy: 200002 uint16 ids, but {folder}/a.csv.gz counts 100001"
            self.assertIn(counted, self.run_script(path, "--heldout", path).stderr)
            path.write_bytes(path.read_bytes()[:-400])
            done = self.run_script(path, "--heldout", path, "--dtype", "uint32")
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"a.npy: 99901 uint32 ids, but {folder}/a.csv.gz counts 100001; it is of another type", done.stderr)
            path.write_bytes(path.read_bytes()[:-1])
            self.assertIn("are no whole number of uint32 ids", self.run_script(path, "--heldout", path, "--dtype=uint32").stderr)
            (Path(folder) / "a.csv.gz").write_bytes(b"no table")
            path.write_bytes(path.read_bytes()[:-3])
            self.assertIn("a.csv.gz: not a table of documents", self.run_script(path, "--heldout", path).stderr)

    def test_unusable_arguments_are_one_line(self):
        done = self.run_script("absent.npy", "--heldout", "absent.npy")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn("ngram_baseline.py: ", done.stderr)
        self.assertEqual(self.run_script("a.npy", "--heldout", "a.npy", "--heldout-tokens", "2").returncode, 2)


if __name__ == "__main__":
    unittest.main()

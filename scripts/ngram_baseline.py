#!/usr/bin/env python3
"""What counting alone reaches: the loss of an interpolated byte trigram, as a bar for small models to clear.

  ngram_baseline.py tokens/prose_train.npy tokens/cpp_train.npy --heldout tokens/prose_heldout.npy

p(c|ab) = w3 c(abc)/c(ab) + w2 c(bc)/c(b) + w1 c(c)/n + w0/V with weights for each size of c(ab), after Jelinek and
Mercer 1980. The weights are fitted by expectation maximisation on every tenth block of the training tokens, with
counts of the others; then all training tokens are counted. Held-out files are only measured.

Prints nats per token of each held-out file and of all. The first two tokens of a file are context alone.
"""
import os
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module: now last.
FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != FOLDER] + [FOLDER]

import script_errors

if __name__ == "__main__":
    script_errors.stop_on_signals("ngram_baseline.py")

import argparse

try:
    import numpy as np
except ImportError as error:
    sys.exit(f"ngram_baseline.py: {error}; scripts/install_packages.sh plot installs it with matplotlib")

from token_table import check_table

BLOCK = 4096  # tokens; whole blocks are held back, so that fitting sees new text and not gaps in known text
HELD_BACK_ONE_IN = 10
MAX_VOCAB_SIZE = 512  # counts of all triples in memory: 8 V^3 bytes
MIN_UNIFORM = 1e-6  # weight that is never taken from w0: no token is impossible
EM_ROUNDS = 30
WEIGHTS = 4  # trigram, bigram, unigram, uniform


class Trigram:
    """Counts of single ids, pairs and triples over a list of arrays; none crosses from one array to the next."""

    def __init__(self, arrays, vocab_size):
        self.vocab_size = v = vocab_size
        keys = [(ids[:-2] * v + ids[1:-1]) * v + ids[2:] for ids in arrays if len(ids) >= 3]
        if not keys:
            raise SystemExit("ngram_baseline.py: the training files hold no three tokens in a row")
        self.triples = np.bincount(np.concatenate(keys), minlength=v**3)
        # Pairs and single ids at the same places as triples, so that every context's counts sum to its own.
        self.contexts = self.triples.reshape(v * v, v).sum(1)
        self.pairs = self.triples.reshape(v, v, v).sum(0).reshape(-1)
        self.pair_contexts = self.pairs.reshape(v, v).sum(1)
        self.singles = self.pairs.reshape(v, v).sum(0)
        self.weights = None

    def parts(self, ids):
        """[n-2, 4]: what each order alone gives the third token on; an unseen context leaves it to the order below."""
        v = self.vocab_size
        a, b, c = ids[:-2], ids[1:-1], ids[2:]
        unigram = self.singles[c] / self.singles.sum()
        seen_b = self.pair_contexts[b]
        bigram = np.where(seen_b > 0, self.pairs[b * v + c] / np.maximum(seen_b, 1), unigram)
        seen_ab = self.contexts[a * v + b]
        trigram = np.where(seen_ab > 0, self.triples[(a * v + b) * v + c] / np.maximum(seen_ab, 1), bigram)
        return np.stack([trigram, bigram, unigram, np.full(len(c), 1 / v)], axis=1)

    def buckets(self, ids):
        """[n-2]: the size of c(ab) in powers of two."""
        count = self.contexts[ids[:-2] * self.vocab_size + ids[1:-1]]
        return np.frexp(count.astype(np.float64))[1]

    def fit(self, arrays):
        """Weights of each bucket that make `arrays`, other tokens than those counted, likeliest."""
        parts = np.concatenate([self.parts(ids) for ids in arrays])
        buckets = np.concatenate([self.buckets(ids) for ids in arrays])
        overall = fit_weights(parts)
        self.weights = np.tile(overall, (64, 1))
        for bucket in np.unique(buckets):
            self.weights[bucket] = fit_weights(parts[buckets == bucket])

    def nats(self, ids):
        """-log p of each token from the third on."""
        return -np.log((self.parts(ids) * self.weights[self.buckets(ids)]).sum(1))


def fit_weights(parts):
    """Mixture weights [4] of the columns of parts [n, 4] by expectation maximisation."""
    weights = np.full(WEIGHTS, 1 / WEIGHTS)
    for _ in range(EM_ROUNDS):
        shares = parts * weights
        weights = (shares / shares.sum(1, keepdims=True)).mean(0)
        weights = (1 - MIN_UNIFORM) * weights + MIN_UNIFORM * np.eye(WEIGHTS)[-1]
    return weights


def train(arrays, vocab_size):
    """A trigram of `arrays` with weights from a tenth of them."""
    blocks = [ids[first : first + BLOCK] for ids in arrays for first in range(0, len(ids), BLOCK)]
    held_back = blocks[HELD_BACK_ONE_IN - 1 :: HELD_BACK_ONE_IN]
    counted = [block for i, block in enumerate(blocks) if i % HELD_BACK_ONE_IN != HELD_BACK_ONE_IN - 1]
    if not held_back:
        raise SystemExit(f"ngram_baseline.py: fewer than {HELD_BACK_ONE_IN * BLOCK} training tokens")
    fitted = Trigram(counted, vocab_size)
    fitted.fit(held_back)
    model = Trigram(arrays, vocab_size)
    model.weights = fitted.weights
    return model


def read_tokens(path, dtype, vocab_size):
    check_table(path, dtype)
    ids = np.fromfile(path, dtype=np.dtype(dtype).newbyteorder("<")).astype(np.int64)
    if len(ids) < 3:
        raise SystemExit(f"ngram_baseline.py: {path}: {len(ids)} tokens; at least 3 are needed")
    if ids.max() >= vocab_size:
        where = int(np.argmax(ids >= vocab_size))
        problem = f"id {ids[where]} at token {where} is outside the vocabulary of {vocab_size}"
        raise SystemExit(f"ngram_baseline.py: {path}: {problem}")
    return ids


def parse_options(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+", metavar="TRAIN", help="token files to count")
    parser.add_argument("--heldout", nargs="+", required=True, metavar="FILE", help="token files to measure")
    parser.add_argument("--heldout-tokens", type=int, default=0, metavar="N",
                        help="measure the first N tokens of each held-out file; 0: all (%(default)s)")
    parser.add_argument("--dtype", choices=("uint16", "uint32"), default="uint16", help="(%(default)s)")
    parser.add_argument("--vocab-size", type=int, default=257, metavar="V", help="bytes and end of text (%(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.vocab_size <= MAX_VOCAB_SIZE:
        parser.error(f"--vocab-size {options.vocab_size}: 1 to {MAX_VOCAB_SIZE}")
    if options.heldout_tokens != 0 and options.heldout_tokens < 3:
        parser.error(f"--heldout-tokens {options.heldout_tokens}: 0 for all, or at least 3")
    return options


def main(arguments=None):
    options = parse_options(arguments)
    arrays = [read_tokens(path, options.dtype, options.vocab_size) for path in options.train]
    model = train(arrays, options.vocab_size)
    sums = np.zeros(2)
    for path in options.heldout:
        ids = read_tokens(path, options.dtype, options.vocab_size)
        nats = model.nats(ids[: options.heldout_tokens] if options.heldout_tokens else ids)
        sums += nats.sum(), len(nats)
        print(f"{nats.mean():.4f} nats per token  {len(nats)} tokens  {path}")
    print(f"{sums[0] / sums[1]:.4f} nats per token  {sums[1]:.0f} tokens  overall")


if __name__ == "__main__":
    script_errors.run_script(main, "ngram_baseline.py:", (script_errors.DataError,))

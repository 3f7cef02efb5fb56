#!/usr/bin/env python3
"""Compares greedy texts of olmoe-generate with those of transformers, token by token, and the tokens per second of both.

    scripts/compare_generation.py [FOLDER ...] [--tokens 64] [--prompt-tokens 32] [--threads 2] [--dtype float32]

FOLDER: Hugging Face folders, such as `olmoe-checkpoint export` writes; those of tests/golden if none is named. Prompts are
random ids, the same in every run; ids that end a text end none here. Each prompt is continued by transformers alone, with
its cache, and by olmoe-generate alone, among others, and without a cache. Where the ids differ, a forward of transformers
says how far apart the two best logits are at that place: below --tie of the largest logit it is a tie, which roundings
decide. Then 1 and 8 prompts of one length are timed, in transformers with the fastest of its experts implementations.
Returns 1 where texts differ. Run by hand, in a Python that has torch 2.11.0 and transformers 5.17.0, such as
.deps/interop of scripts/check_interop.sh.
"""
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module of that name.
sys.path[:] = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import torch
import transformers

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERTS = ("eager", "batched_mm", "grouped_mm")  # of transformers


class Ours:
    def __init__(self, arguments, folder):
        self.command = [arguments.program, folder, "--json", "--stop", "none", "--dtype", arguments.dtype]
        self.environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}

    def generate(self, prompts, tokens, *options):
        """(new ids of each prompt, tokens per second)."""
        ids = [",".join(map(str, prompt)) for prompt in prompts]
        done = subprocess.run([*map(str, self.command), "--max-tokens", str(tokens), *options, "--ids", *ids], check=True,
                              stdout=subprocess.PIPE, env=self.environment, text=True)
        answer = json.loads(done.stdout)
        return [text["ids"] for text in answer["texts"]], answer["tokens_per_s"]


class Theirs:
    """The model of a folder in transformers, by one of its experts implementations where it has any."""

    def __init__(self, folder, dtype, experts):
        options = {"experts_implementation": experts} if experts else {}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **options)
        self.model.eval()
        # None ends a text; ids that fill a batch are never read.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def generate(self, prompts, tokens):
        """(new ids of prompts of one length, tokens per second)."""
        ids = torch.tensor(prompts)
        with torch.no_grad():
            begin = time.perf_counter()
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
            elapsed = time.perf_counter() - begin
        return out[:, ids.shape[1]:].tolist(), len(prompts) * tokens / elapsed

    def gap_after(self, ids):
        """Between the two best logits after `ids`, as a share of the largest magnitude."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        best = logits.topk(2).values
        return ((best[0] - best[1]) / logits.abs().max()).item()


def compare(prompt, ours, expected, theirs, tie):
    """None where the ids are equal, else (whether it is a tie, what to say)."""
    if ours == expected:
        return None
    place = next((i for i, pair in enumerate(zip(ours, expected)) if pair[0] != pair[1]), min(len(ours), len(expected)))
    if place == min(len(ours), len(expected)):
        return False, f"{len(ours)} tokens, {len(expected)} in transformers"
    gap = theirs.gap_after(prompt + expected[:place])
    return gap < tie, f"token {place} differs, where the two best logits lie {gap:.1e} apart"


def check_folder(folder, arguments):
    """Prints a line for each way to generate; returns whether all texts are equal, or ties."""
    config = json.loads((folder / "config.json").read_text())
    context, vocabulary = config.get("max_position_embeddings", 4096), config["vocab_size"]
    length = min(arguments.prompt_tokens, context // 2)
    tokens = min(arguments.tokens, context - length)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(vocabulary, (max(1, length - 3 * i % length),), generator=generator).tolist()
               for i in range(8)]
    has_experts = config.get("model_type") != "llama"
    theirs = Theirs(folder, arguments.dtype, "eager" if has_experts else None)
    expected = [theirs.generate([prompt], tokens)[0][0] for prompt in prompts]
    ours = Ours(arguments, folder)
    found = {
        "alone": [ours.generate([prompt], tokens)[0][0] for prompt in prompts],
        "together": ours.generate(prompts, tokens)[0],
        "without a cache": ours.generate(prompts, tokens, "--no-cache")[0],
    }
    good = True
    for way, texts in found.items():
        differences = [(i, compare(prompts[i], texts[i], expected[i], theirs, arguments.tie)) for i in range(len(prompts))]
        differences = [(i, difference) for i, difference in differences if difference]
        failed = [i for i, (is_tie, _) in differences if not is_tie]
        good = good and not failed
        print(f"{'FAIL' if failed else 'ok  '} {folder.name}, {way}: {len(prompts) - len(differences)} of {len(prompts)} texts "
              f"of {tokens} tokens equal, {len(differences) - len(failed)} differ at a tie", flush=True)
        for i, (_, text) in differences:
            print(f"     prompt {i}: {text}", flush=True)
    time_folder(folder, arguments, prompts[0], tokens, has_experts)
    return good


def time_folder(folder, arguments, prompt, tokens, has_experts):
    """Prints tokens per second of both for 1 and 8 prompts of one length."""
    fastest = {}
    for experts in EXPERTS if has_experts else (None,):
        try:
            theirs = Theirs(folder, arguments.dtype, experts)
            theirs.generate([prompt], 2)  # the first call also prepares
            for count in (1, 8):
                speed = theirs.generate([prompt] * count, tokens)[1]
                fastest[count] = max(fastest.get(count, (0, "")), (speed, experts or "no experts"))
        except (ValueError, RuntimeError, NotImplementedError) as error:
            print(f"     transformers, {experts}: {str(error).splitlines()[0]}", flush=True)
    ours = Ours(arguments, folder)
    for count, (speed, experts) in sorted(fastest.items()):
        own = ours.generate([prompt] * count, tokens)[1]
        print(f"     {count} prompts of {len(prompt)} tokens, {tokens} new ones, {arguments.threads} threads: {own:.1f} tokens/s, "
              f"transformers ({experts}) {speed:.1f}, {own / speed:.2f}x", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Compares generated texts with those of transformers.")
    parser.add_argument("folders", nargs="*", type=Path, help="Hugging Face folders; tests/golden/* if not given")
    parser.add_argument("--program", type=Path, default=REPOSITORY / "build" / "olmoe-generate")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tie", type=float, default=1e-5, help="share of the largest logit that roundings decide")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {arguments.dtype}")
    golden = sorted(path for path in (REPOSITORY / "tests" / "golden").iterdir() if path.is_dir())
    results = [check_folder(folder, arguments) for folder in arguments.folders or golden]
    print("all texts agree" if all(results) else f"{results.count(False)} folders differ")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

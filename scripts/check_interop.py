#!/usr/bin/env python3
"""Loads what olmoe-checkpoint exports in Hugging Face transformers, and compares logits with those of tests/golden.

    scripts/check_interop.py [--program build/olmoe-checkpoint] [--golden tests/golden]

Of every golden model: imported and exported again in fp32 (logits within 1e-5 of the reference's largest), and in bfloat16
in several files (every weight and logit equal to the golden model's, rounded by torch). Then a tokenizer, and a dense
model upcycled to experts, whose logits are the dense model's. Prints a line for each; returns 1 where one fails.
scripts/check_interop.sh installs what it takes: torch 2.11.0, transformers 5.17.0, safetensors.
"""
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module of that name.
sys.path[:] = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]

import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

TOLERANCE = 1e-5  # max|ours - reference| / max|reference|, fp32


class Check:
    def __init__(self, program, golden, folder):
        self.program, self.golden, self.folder = program, golden, folder
        self.failed = 0

    def run(self, *arguments):
        subprocess.run([self.program, *map(str, arguments)], check=True)

    def report(self, what, good, figure):
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}: {figure}", flush=True)

    def new(self, name):
        return self.folder / name


def load(folder, dtype):
    options = {"attn_implementation": "eager", "dtype": dtype}
    if transformers.AutoConfig.from_pretrained(folder).model_type != "llama":
        options["experts_implementation"] = "eager"  # the others want wider experts
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    wrong = {key: names for key, names in info.items() if names}
    if wrong:
        raise RuntimeError(f"{folder}: {wrong}")
    return model


def logits_of(model, input_ids):
    with torch.no_grad():
        return model(input_ids=input_ids).logits.float()


def gap(ours, reference):
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def check_golden(check, name):
    golden, reference = check.golden / name, load_file(check.golden / name / "reference.safetensors")
    step = check.new(f"{name}_step")
    check.run("import", golden, step)
    check.run("export", step, check.new(f"{name}_fp32"))
    model = load(check.new(f"{name}_fp32"), torch.float32)
    error = gap(logits_of(model, reference["input_ids"]), reference["logits"])
    check.report(f"{name}, {type(model).__name__}, fp32", error <= TOLERANCE, f"largest relative error {error:.2e}")

    files = check.new(f"{name}_bf16")
    check.run("export", step, files, "--dtype", "bfloat16", "--max-shard-size", "10KB")
    ours, theirs = load(files, torch.bfloat16), load(golden, torch.bfloat16)
    pairs = [(ours.state_dict()[key], value) for key, value in theirs.state_dict().items()]
    equal = sum(torch.equal(a, b) for a, b in pairs)
    same = torch.equal(logits_of(ours, reference["input_ids"]), logits_of(theirs, reference["input_ids"]))
    shards = len(list(files.glob("*.safetensors")))
    check.report(f"{name}, bfloat16 in {shards} files", same and equal == len(pairs),
                 f"{equal} of {len(pairs)} weights equal, logits {'equal' if same else 'differ'}")


def check_upcycled(check, name, *options):
    reference = load_file(check.golden / name / "reference.safetensors")
    label = "_".join(["upcycled", *options]).replace("--", "")
    check.run("upcycle", check.golden / name, check.new(label), *options)
    check.run("export", check.new(label), check.new(label + "_hf"))
    model = load(check.new(label + "_hf"), torch.float32)
    error = gap(logits_of(model, reference["input_ids"]), reference["logits"])
    check.report(f"{name} upcycled ({' '.join(options)})", error <= TOLERANCE, f"largest relative error {error:.2e}")


def check_tokenizer(check):
    import tokenizers

    words = {"<end>": 0, "the": 1, "quick": 2, "fox": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(check.new("mine.json")))
    folder = check.new("with_tokenizer")
    check.run("export", check.golden / "top2_of_8", folder, "--tokenizer", check.new("mine.json"), "--eos-id", 0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = load(folder, torch.float32)
    ids = tokenizer("the quick fox", return_tensors="pt").input_ids
    made_ids = model.generate(ids, max_new_tokens=4, do_sample=False)
    good = (ids.tolist() == [[1, 2, 3]] and tokenizer.eos_token_id == tokenizer.pad_token_id == 0
            and model.generation_config.eos_token_id == model.generation_config.pad_token_id == 0
            and made_ids.shape[1] > 3)
    check.report("tokenizer, AutoTokenizer and generate", good,
                 f"{type(tokenizer).__name__}, ids {ids.tolist()}, eos and pad {tokenizer.eos_token_id}")


def main():
    repository = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Loads exported folders in transformers.")
    parser.add_argument("--program", type=Path, default=repository / "build" / "olmoe-checkpoint")
    parser.add_argument("--golden", type=Path, default=repository / "tests" / "golden")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, tolerance {TOLERANCE:g}")
    names = sorted(path.name for path in arguments.golden.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as folder:
        check = Check(arguments.program.resolve(), arguments.golden, Path(folder))
        for name in names:
            check_golden(check, name)
        check_upcycled(check, "dense_one_expert", "--experts", "8", "--top-k", "2")
        check_upcycled(check, "dense_one_expert", "--experts", "8", "--top-k", "4", "--expert-width", "8")
        check_tokenizer(check)
    print("all agree" if check.failed == 0 else f"{check.failed} checks failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())

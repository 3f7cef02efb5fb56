#!/usr/bin/env python3
"""Speed and memory of two builds of the trainer, which take turns on the same runs.

    bench/side_by_side.py BEFORE AFTER [--rounds 5]

BEFORE and AFTER are olmoe-train programs. Runs, each on one thread of one CPU rank and generated tokens: configs/tiny-cpu.yaml, and one
block of OLMoE-1B-7B's width with 512 tokens in fp32. Prints the median over rounds of a run's median tokens/s without its
first steps, the range, the peak of tensor memory and the last loss, which must not differ between builds of one function.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
ALWAYS = ("data.paths=[]", "data.synthetic=true", "evaluation.paths=[]", "evaluation.every_steps=0", "checkpoint.every_steps=0",
          "checkpoint.save_last=false", "log.every_steps=1", "run.threads=1", "train.device=cpu",
          "train.compute_dtype=float32", "parallel.shard=1")
BLOCK = ("model.num_layers=1", "model.vocab_size=512", "train.micro_batch_size=1", "train.global_batch_size=1",
         "parallel.zero_stage=1", "data.paths_file=", "data.root=", "data.sequence_length=512", "schedule.warmup_steps=1")
# Name: config, what is changed in it, steps, and how many of them are not counted.
RUNS = {"tiny-cpu": ("tiny-cpu.yaml", (), 60, 10), "block": ("olmoe-1b-7b.yaml", BLOCK, 6, 2)}


def measure(program, config, settings, steps, skipped):
    """Tokens/s, bytes, loss."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, CONFIGS / config, *ALWAYS, *settings, f"train.steps={steps}", f"run.folder={folder}/run"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"error: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["tokens_per_s"] for line in lines[skipped:]), lines[-1]["peak_memory_bytes"], lines[-1]["loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    programs = {"before": arguments.before.resolve(), "after": arguments.after.resolve()}
    results = {(run, name): [] for run in RUNS for name in programs}
    for _ in range(arguments.rounds):
        for run, name in results:
            results[run, name].append(measure(programs[name], *RUNS[run]))
    for (run, name), measured in results.items():
        rates = [rate for rate, _, _ in measured]
        print(f"{run:9}{name:7}{statistics.median(rates):9.1f} tok/s, {min(rates):.1f} to {max(rates):.1f}   "
              f"peak {measured[0][1]:,} bytes   loss {measured[0][2]!r}")


if __name__ == "__main__":
    main()

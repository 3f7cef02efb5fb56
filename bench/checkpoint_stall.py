#!/usr/bin/env python3
"""How long a save keeps training waiting: runs that save synchronously and asynchronously take turns.

    bench/checkpoint_stall.py FOLDER [--every 6] [--rounds 1] [KEY=VALUE ...]

Trains one block of OLMoE-1B-7B's width with embedding and head (7.5 GB of state) on one CPU rank for three times
--every steps and saves twice, below FOLDER, which must not exist and is removed. KEY=VALUE changes the config. The stall
of a save is the time of the --every steps after it beyond that of as many steps at the run's usual step time, the
median of its first ones without the very first. Beside it: one copy of the state in memory that was written before.
"""
import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MODES = {"sync": ("checkpoint.async=false",), "async": ("checkpoint.async=true",)}
LAYER = (
    "model.num_layers=1", "train.device=cpu", "train.micro_batch_size=1", "train.global_batch_size=1", "parallel.shard=1",
    "parallel.zero_stage=1", "data.paths_file=", "data.root=", "data.synthetic=true", "data.sequence_length=1024",
    "evaluation.every_steps=0", "checkpoint.save_last=false", "checkpoint.keep=1", "log.every_steps=1", "run.threads=1",
    "schedule.warmup_steps=1")


def train(folder, every, settings):
    """Seconds of each step, from line to line of the log; seconds from the begin to the end of each save; state bytes."""
    command = [REPOSITORY / "build" / "olmoe-train", REPOSITORY / "configs" / "olmoe-1b-7b.yaml", *LAYER,
               f"checkpoint.every_steps={every}", f"train.steps={3 * every}", f"run.folder={folder}", *settings]
    lines, times, saves = [], [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout:
            lines.append(line)
            if re.search(r" info step \d+/", line):
                times.append(time.monotonic())
            if found := re.search(r"saved \S+ in ([\d.]+) s", line):
                saves.append(float(found[1]))
    if run.returncode != 0 or len(times) != 3 * every:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {run.returncode}:\n{''.join(lines[-20:])}")
    steps = [end - begin for begin, end in zip(times, times[1:])]  # steps 2, 3, ...
    size = sum(file.stat().st_size for file in folder.glob("checkpoints/step_*/*"))
    return steps, saves, size


def seconds_of_copy(size):
    """Of `size` bytes from and to memory that is mapped, 1 GB at a time."""
    part = min(size, 10**9)
    source, target = bytearray(b"\1") * part, bytearray(b"\2") * part
    begin = time.monotonic()
    memoryview(target)[:] = source
    return (time.monotonic() - begin) * size / part


def report(mode, steps, saves, every, copy):
    usual = statistics.median(steps[:every - 2])  # step `every` saves after its line
    text = f"{mode:6} step {1e3 * usual:7.0f} ms"
    for number, begin in enumerate((every - 1, 2 * every - 1)):
        stall = sum(steps[begin:begin + every]) - every * usual
        text += (f"   stall {1e3 * stall:7.0f} ms = {stall / usual:6.2f} steps = {stall / copy:5.2f} copies, written in "
                 f"{saves[number]:5.1f} s")
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if arguments.every < 4:
        parser.error("--every must be at least 4: the usual step time is that of the steps before the first save")
    arguments.folder.mkdir(parents=True)
    try:
        for _ in range(arguments.rounds):
            results = {}
            for mode, settings in MODES.items():
                run = arguments.folder / mode
                results[mode] = train(run, arguments.every, [*arguments.settings, *settings])
                shutil.rmtree(run)
            size = results["sync"][2]
            copy = seconds_of_copy(size)
            print(f"state {size / 1e9:.2f} GB, one copy of it {1e3 * copy:.0f} ms")
            for mode, (steps, saves, _) in results.items():
                report(mode, steps, saves, arguments.every, copy)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()

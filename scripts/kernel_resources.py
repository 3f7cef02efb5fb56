#!/usr/bin/env python3
"""Turns what ptxas wrote of each kernel into a Markdown table.

    scripts/kernel_resources.py FOLDER      one file for each .cu, named after it, with the output of `nvcc -Xptxas -v`
"""
import re
import subprocess
import sys
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def kernels_of(text):
    """Yields (mangled name, architecture, registers, spilled bytes, shared bytes) for each kernel of one log."""
    name = architecture = None
    spilled = 0
    for line in text.splitlines():
        if entry := ENTRY.search(line):
            name, architecture, spilled = entry[1], entry[2], 0
        elif spills := SPILLS.search(line):
            spilled = int(spills[2]) + int(spills[3])
        elif (used := USED.search(line)) and name:
            shared = SHARED.search(line)
            yield name, architecture, int(used[1]), spilled, int(shared[1]) if shared else 0
            name = None


def readable(names):
    """The C++ names of mangled ones, without namespaces and parameters."""
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = []
    for line in out.splitlines():
        line = re.sub(r"\(anonymous namespace\)::|olmoe::kernels::(cuda::|hopper::)?|^void ", "", line)
        short.append(line.split("(")[0])
    return short


def main():
    rows = [(log.stem, *kernel) for log in sorted(Path(sys.argv[1]).iterdir()) for kernel in kernels_of(log.read_text())]
    if not rows:
        sys.exit(f"{sys.argv[1]} tells of no kernel")
    print("| kernel | file | GPU | registers | spilled bytes | shared bytes |\n| --- | --- | --- | ---: | ---: | ---: |")
    for name, (file, _, architecture, *numbers) in zip(readable([row[1] for row in rows]), rows):
        print(f"| `{name}` | {file} | {architecture} | " + " | ".join(map(str, numbers)) + " |")


if __name__ == "__main__":
    main()

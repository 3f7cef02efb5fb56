#!/usr/bin/env python3
"""Turns what ptxas wrote of each kernel into a Markdown table, and holds it against the sources.

    scripts/kernel_resources.py FOLDER [ROOT]   one file for each .cu, named after it, with the output of `nvcc -Xptxas -v`

With ROOT, a repository, it is an error if the report lacks a kernel of ROOT/kernels, or if a block of as many threads as
the kernel's launch bound allows would not fit a multiprocessor.
"""
import re
import subprocess
import sys
from pathlib import Path

from cuda_sources import launch_bounds, own_kernels, value_of

REGISTERS = 65536  # of a multiprocessor, which hands them out by eight a thread
SHARED_BYTES = 48 << 10  # that a block has without asking

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
        line = re.sub(r"\(anonymous namespace\)::|olmoe::(kernels::)?(cuda::|hopper::)?|^void ", "", line)
        short.append(line.split("(")[0])
    return short


def sources_of(root, suffix, architectures):
    """{stem: text} of the CUDA sources that a build for these architectures compiles."""
    folders = [root / folder for folder in ("kernels", "kernels/rows", "trainer/device")]
    folders += [root / "kernels/hopper"] * ("sm_90a" in architectures)
    return {path.stem: path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.glob(suffix))}


def problems_of(rows, root, architectures):
    """Yields what is wrong with the kernels of root/kernels; rows: (file, readable name, registers, shared bytes)."""
    seen = {(file, name.split("<")[0]) for file, name, _, _ in rows}
    sources = sources_of(root, "*.cu", architectures)
    for file, text in sources.items():
        yield from (f"{file}.cu: ptxas reports nothing of {name}" for name in own_kernels(text) if (file, name) not in seen)
    for file, text in sources_of(root, "*.cuh", architectures).items():
        yield from (f"{file}.cuh: ptxas reports nothing of {name}" for name in own_kernels(text)
                    if name not in {kernel for _, kernel in seen})
    for file, name, registers, shared_bytes in rows:
        if file not in sources:  # left behind by a source that is gone
            continue
        text = sources[file]
        threads = value_of(launch_bounds(text, root)[name.split("<")[0]], text, root)
        if -(-registers // 8) * 8 * threads > REGISTERS:
            yield f"{file}.cu: {name}: {registers} registers for each of {threads} threads are more than {REGISTERS}"
        if shared_bytes > SHARED_BYTES:
            yield f"{file}.cu: {name}: {shared_bytes} bytes of shared memory are more than {SHARED_BYTES}"


def main():
    rows = [(log.stem, *kernel) for log in sorted(Path(sys.argv[1]).iterdir()) for kernel in kernels_of(log.read_text())]
    if not rows:
        sys.exit(f"{sys.argv[1]} has no kernel")
    names = readable([row[1] for row in rows])
    print("| kernel | file | GPU | registers | spilled bytes | shared bytes |\n| --- | --- | --- | ---: | ---: | ---: |")
    for name, (file, _, architecture, *numbers) in zip(names, rows):
        print(f"| `{name}` | {file} | {architecture} | " + " | ".join(map(str, numbers)) + " |")
    if len(sys.argv) > 2:
        of_kernels = [(row[0], name, row[3], row[5]) for name, row in zip(names, rows) if row[1].startswith("_ZN5olmoe")]
        if problems := list(problems_of(of_kernels, Path(sys.argv[2]), {row[2] for row in rows})):
            sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

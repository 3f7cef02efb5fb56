#!/usr/bin/env python3
"""Checks that no instruction for global memory alone is given the address of shared memory: on a GPU an illegal address.

    scripts/check_address_spaces.py BUILD SOURCE.cu ...     compiles each to PTX, as BUILD/compile_commands.json says
    scripts/check_address_spaces.py FILE.ptx ...

Follows registers from where the address of shared memory is made generic (cvta.shared) to the instructions of the .global
space (st, ld, red, atom, prefetch). An address that goes through memory on its way is not seen. Returns 1 where it finds one.
"""
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ENTRY = re.compile(r"^\s*(?:\.visible |\.weak )*\.(?:entry|func)\b.*?(\w+)\s*\($")
LINE = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z]\w*(?:\.\w+)*)\s+(.*);")
REGISTER = re.compile(r"%\w+")
GLOBAL_ONLY = re.compile(r"(st|ld|red|atom|prefetch)\.(?:\w+\.)*global\b|cvta\.to\.global\b")
LOADS = re.compile(r"(ld|ldu|atom|shfl)\b")


def kernels_of(text):
    """Yields (name, lines) for each function of a PTX file."""
    name, lines = None, []
    for number, line in enumerate(text.splitlines(), 1):
        if entry := ENTRY.match(line):
            if name:
                yield name, lines
            name, lines = entry[1], []
        elif name:
            lines.append((number, line))
    if name:
        yield name, lines


def instructions_of(lines):
    """(line number, operation, registers) of each instruction; the first register is what most of them write."""
    return [(number, found[1], REGISTER.findall(found[2]), found[0].strip())
            for number, line in lines if (found := LINE.match(line))]


def shared_addresses(instructions):
    """Registers that hold, somewhere in the function, a generic address of shared memory."""
    tainted = {registers[0] for _, operation, registers, _ in instructions if operation.startswith("cvta.shared")}
    before = -1
    while len(tainted) != before:
        before = len(tainted)
        for _, operation, registers, _ in instructions:
            moves = registers and not LOADS.match(operation) and not operation.startswith(("st.", "cvta.to.shared"))
            if moves and registers[0].startswith("%rd") and tainted & set(registers[1:]):
                tainted.add(registers[0])
    return tainted


def problems_of(text):
    """Yields (line number, kernel, instruction)."""
    for name, lines in kernels_of(text):
        instructions = instructions_of(lines)
        tainted = shared_addresses(instructions)
        for number, operation, registers, line in instructions:
            address = re.search(r"\[(%\w+)", line)
            used = {address[1]} if address else set(registers[1:2])
            if GLOBAL_ONLY.match(operation) and used & tainted:
                yield number, name, line


def compile_to_ptx(build, source):
    """The PTX of a source, as text."""
    commands = json.loads((build / "compile_commands.json").read_text())
    entry = next((entry for entry in commands if Path(entry["file"]).resolve() == source.resolve()), None)
    if entry is None:
        raise SystemExit(f"{build}/compile_commands.json does not compile {source}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.ptx"
        words = shlex.split(entry["command"])
        words = words[next(i for i, word in enumerate(words) if word.endswith("nvcc")):]
        words = [re.sub(r"--generate-code=arch=compute_(\w+),.*", r"-arch=compute_\1", word) for word in words]
        words[words.index("-c")] = "-ptx"
        words[words.index("-o") + 1] = str(out)
        subprocess.run(words, cwd=entry["directory"], check=True, stderr=subprocess.DEVNULL)
        return out.read_text()


def main(arguments):
    if not arguments:
        raise SystemExit(__doc__)
    if arguments[0].endswith(".ptx"):
        texts = {name: Path(name).read_text() for name in arguments}
    else:
        texts = {name: compile_to_ptx(Path(arguments[0]), Path(name)) for name in arguments[1:]}
    kernels = bad = 0
    for name, text in texts.items():
        kernels += sum(1 for _ in kernels_of(text))
        for number, kernel, line in problems_of(text):
            bad += 1
            print(f"{name}: {kernel}, line {number} of its PTX: {line}  <- an address of shared memory")
    if kernels == 0:
        raise SystemExit("there are no kernels in there")
    print(f"{kernels} kernels: {bad} instructions for global memory are given an address of shared memory")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

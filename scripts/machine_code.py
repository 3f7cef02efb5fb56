#!/usr/bin/env python3
"""Holds the machine code of the fused experts' kernels against what makes them fast, and prints it as a table.

    scripts/machine_code.py DISASSEMBLER OBJECT... [--logs FOLDER]

DISASSEMBLER: the folder of cuobjdump and nvdisasm. OBJECT: kernels/hopper/*.cu compiled for sm_90a. FOLDER: what ptxas
said of each file (nvcc -Xptxas -v). Fails where a property is lost, naming kernel, property, value and bound.

A kernel has a loop that loads (LDGSTS and no HGMMA), a loop that multiplies (HGMMA), and around the latter one that
takes tile after tile, whose rest is the epilogue.
"""
import argparse
import re
import sys
from pathlib import Path

import sass
from kernel_resources import kernels_of, readable

# Most instructions of a warp: of the loading loop and of the multiplying one for a k-tile of 64, whose products take
# 1,024 cycles, and of the epilogue for a tile, 128 values a thread. Some percent above what is there.
BOUNDS = {
    "UpProjection": {"loading": 110, "multiplying": 60, "epilogue": 1700},
    "DownBackward": {"loading": 110, "multiplying": 60, "epilogue": 4400},
    "WeightGrad<true>": {"loading": 260, "multiplying": 60, "epilogue": 2200},  # of which half runs: it stores or adds
    "WeightGrad<false>": {"loading": 260, "multiplying": 60, "epilogue": 1200},
}
PASSES = 8  # 16 bytes a thread each, which make a k-tile of A
SPILLED_BYTES = {"DownBackward": 40}  # five registers, once a tile: it has three results of each element. Others: 0


def properties(kernel, code, spilled):
    """Yields (property, value, what is wanted, whether it is so)."""
    bounds = BOUNDS[kernel]
    loading = code.shortest_loop(["LDGSTS"], lacks=["HGMMA"])
    multiplying = code.shortest_loop(["HGMMA"])
    tiles = next((loop for loop in code.loops() if loop.counts()["HGMMA"] > (multiplying or loop).counts()["HGMMA"]), None)
    if not (loading and multiplying and tiles):
        yield "loops that load, multiply and take tiles", "not found", "all three", False
        return
    epilogue = tiles.without(multiplying)

    def at_most(name, value, most):
        return name, value, f"at most {most}", value <= most

    def exactly(name, value, wanted):
        return name, value, str(wanted), value == wanted

    load, multiply, whole = loading.counts(), multiplying.counts(), code.counts()
    yield at_most("loading: instructions a k-tile", len(loading), bounds["loading"])
    yield exactly("loading: copies of 16 bytes a k-tile", load["LDGSTS"], PASSES)
    yield at_most("loading: branches that rejoin (the leader's)", load["BSSY"], 1)
    if kernel.startswith("WeightGrad"):  # the others look their rows up once a tile
        yield exactly("loading: rows looked up before the first is used", sass.loads_before_use(loading, "LDG"), PASSES)
    yield at_most("multiplying: instructions a k-tile", len(multiplying), bounds["multiplying"])
    yield exactly("multiplying: HGMMA a k-tile", multiply["HGMMA"], 4)
    yield exactly("multiplying: local loads and stores", multiply["LDL"] + multiply["STL"], 0)
    waits = [i for i in multiplying.instructions if i.opcode == "WARPGROUP.DEPBAR.LE"]
    yield ("multiplying: waits, with one batch left in flight", len(waits), "1",
           len(waits) == 1 and waits[0].operands.replace(" ", "") == "gsb0,0x1")
    yield at_most("epilogue: instructions a tile", len(epilogue), bounds["epilogue"])
    yield exactly("calls", whole["CALL"], 0)
    yield exactly("conversions one at a time (F2F)", whole["F2F"], 0)
    if kernel.startswith("WeightGrad"):
        yield exactly("epilogue: loads of the sum", epilogue.counts()["LDG"] - 1, 0)  # one: the offsets of the experts
    yield at_most("spilled bytes", spilled, SPILLED_BYTES.get(kernel, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("disassembler")
    parser.add_argument("objects", nargs="+", type=Path)
    parser.add_argument("--logs", type=Path, required=True)
    options = parser.parse_args()
    if not (Path(options.disassembler) / "cuobjdump").is_file():
        sys.exit(f"{options.disassembler} holds no cuobjdump: scripts/install_disassembler.sh installs it")
    said = {path: path.read_text(encoding="utf-8") for path in sorted(options.logs.iterdir())}
    spilled = {name: bytes_ for text in said.values() for name, _, _, bytes_, _ in kernels_of(text)}
    problems = [f"{path.name}: ptxas: {line.strip()}" for path, text in said.items() for line in text.splitlines()
                if "serializ" in line]
    print("| kernel | property | value | wanted |\n| --- | --- | ---: | --- |")
    seen = set()
    for path in options.objects:
        for mangled, code in sass.disassemble(options.disassembler, path).items():
            kernel = re.search(r"multiply<(.*?) ?>$", readable([mangled])[0])
            if not kernel:
                continue
            seen.add(kernel[1])
            for name, value, wanted, holds in properties(kernel[1], code, spilled[mangled]):
                print(f"| {kernel[1]} | {name} | {value} | {wanted} |")
                if not holds:
                    problems.append(f"{kernel[1]}: {name}: {value}, wanted: {wanted}")
    problems += [f"{name}: no object holds it" for name in BOUNDS if name not in seen]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Holds the machine code of the hot kernels against what makes them fast, and prints it as a table. Needs no GPU.

    scripts/machine_code.py DISASSEMBLER BUILD [--before OTHER_BUILD]

DISASSEMBLER: the folder of cuobjdump and nvdisasm (scripts/install_disassembler.sh). BUILD: a build for sm_90a, with the
objects that machine_code_rules.py names and what ptxas said of them; those of bench/ if it has benchmarks. Fails where a property is lost, naming
kernel, property, value, what is wanted, and the first instruction that is amiss. With OTHER_BUILD, of other sources,
the table says for each property what it was there, if that source was compiled there, and marks those that would have failed.
"""
import argparse
import dataclasses
import sys
from pathlib import Path

import sass
from kernel_resources import kernels_of, readable
from machine_code_rules import RULES, Compiled, Unlike, fused, shown


@dataclasses.dataclass(frozen=True)
class Property:
    kernel: str
    name: str
    value: object
    wanted: str
    holds: bool
    first: str  # instruction that is counted


def objects_of(build, source):
    return sorted(build.glob(f"CMakeFiles/*/{source}.cu.o"))


def sources_of(build):
    """Those that there are rules for and that a build has to have compiled."""
    has_benchmarks = "\nOLMOE_BENCH:BOOL=ON\n" in (build / "CMakeCache.txt").read_text(encoding="utf-8")
    return [source for source in RULES if has_benchmarks or not source.startswith("bench/")]


def compiled_kernels(disassembler, build, source):
    """{readable name without spaces: Compiled} of one object of a build."""
    objects = objects_of(build, source)
    log = build / "ptxas" / Path(source).name
    if len(objects) != 1 or not log.is_file():
        raise SystemExit(f"{build}: {source}.cu has not been compiled there, or ptxas's log of it is missing")
    said = log.read_text(encoding="utf-8")
    resources = {name: (registers, spilled)
                 for name, architecture, registers, spilled, _ in kernels_of(said) if architecture == "sm_90a"}
    codes = sass.disassemble(disassembler, objects[0])
    names = [name.replace(" ", "") for name in readable(list(codes))]
    return {name: Compiled(code, *resources[mangled], said)
            for name, (mangled, code) in zip(names, codes.items()) if mangled in resources}


def properties_of(name, compiled, rules, is_fused):
    """Yields what the rules find in a kernel."""
    try:
        kernel = fused(compiled) if is_fused else compiled
    except Unlike as lacking:
        yield Property(name, "structure", f"not found: {lacking}", "loops that load, multiply and take tiles", False, "")
        return
    for rule in rules:
        value, counted = rule.measure(kernel)
        yield Property(name, rule.name, value, rule.wish(), rule.holds(value), str(counted[0]) if counted else "")


def properties_of_build(disassembler, build, sources):
    """Those of the kernels of these sources that there are rules for."""
    found = []
    for source in sources:
        of_kernels = RULES[source]
        kernels = compiled_kernels(disassembler, build, source)
        for name, rules in of_kernels.items():
            shown_name = name if source.startswith("kernels/") else f"{name} of {source}"
            if name in kernels:
                found += properties_of(shown_name, kernels[name], rules, name.startswith("multiply<"))
            else:
                found.append(Property(shown_name, "kernel", f"not in {source}.cu", "to be there", False, ""))
    return found


def print_table(now, before):
    old = {(found.kernel, found.name): found for found in before or ()}
    columns = ["now"] if before is None else ["before", "now"]
    print("| kernel | property | " + " | ".join(columns) + " | wanted |")
    print("| --- | --- | " + "---: | " * len(columns) + "--- |")
    for found in now:
        values = [shown(found.value)]
        if before is not None:
            was = old.get((found.kernel, found.name))
            values.insert(0, "" if was is None else shown(was.value) + " (!)" * (not was.holds))
        print(f"| `{found.kernel}` | {found.name} | " + " | ".join(values) + f" | {found.wanted} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("disassembler", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("--before", type=Path, metavar="OTHER_BUILD")
    options = parser.parse_args()
    now = properties_of_build(options.disassembler, options.build, sources_of(options.build))
    before = None
    if options.before:
        compiled = [source for source in RULES if objects_of(options.before, source)]
        if not compiled:
            raise SystemExit(f"{options.before} holds no objects that there are rules for")
        before = properties_of_build(options.disassembler, options.before, compiled)
    print_table(now, before)
    problems = [f"{found.kernel}: {found.name}: {shown(found.value)}, wanted: {found.wanted}"
                + f"; {found.first}" * bool(found.first) for found in now if not found.holds]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

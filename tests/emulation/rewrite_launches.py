#!/usr/bin/env python3
"""Turns a source in CUDA C++ into one in C++ for tests/emulation. Launches and declarations of shared memory are
rewritten, in place, so that lines keep their numbers; the rest is the source itself.

    rewrite_launches.py FROM.cu TO.cpp      in the root of the repository
"""
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from cpp_functions import without_comments  # noqa: E402
from cuda_sources import launch_bounds  # noqa: E402

LAUNCH = re.compile(r"(?P<kernel>\w+)(?P<arguments><[^<>;]*>)?(?P<space>\s*)<<<(?P<configuration>.*?)>>>\s*\(", re.DOTALL)
DYNAMIC = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")
STATIC = re.compile(r"__shared__ (\w+) (\w+\[[^;]+\]);")


def rewrite(text, name, root):
    """The C++ of a source called `name`. Raises ValueError where a launch or a declaration is not understood."""
    bounds = launch_bounds(text, root)

    def launch(match):
        kernel, arguments = match["kernel"], match["arguments"] or ""
        if kernel not in bounds:
            raise ValueError(f"{name}: {kernel} is launched, but is no kernel of this file or of a header it includes")
        return (f'{match["space"]}::emulation::Launch("{kernel}", {bounds[kernel]}, {match["configuration"]})'
                f".run([](auto... copies) {{ {kernel}{arguments}(copies...); }}, ")

    def arrays(match):
        declared = [re.fullmatch(r"(\w+)(.+)", array) for array in match[2].split(", ")]
        return " ".join(f"{match[1]} (&{array[1]}){array[2]} = ::emulation::shared<{match[1]}{array[2]}>([] {{}});"
                        for array in declared)

    out = STATIC.sub(arrays, DYNAMIC.sub(r"\1* const \2 = ::emulation::dynamic_shared<\1>();", LAUNCH.sub(launch, text)))
    code = without_comments(out)
    for left, what in (("<<<", "launch"), ("__shared__", "declaration of shared memory")):
        if left in code:
            raise ValueError(f"{name}:{code.count(chr(10), 0, code.index(left)) + 1}: a {what} that is not understood")
    return f'#line 1 "{name}"\n{out}'


def main():
    source, target = map(Path, sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(rewrite(source.read_text(encoding="utf-8"), source.as_posix(), Path()), encoding="utf-8")


if __name__ == "__main__":
    main()

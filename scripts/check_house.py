#!/usr/bin/env python3
"""Checks what no compiler checks: floors, the homes of outside libraries, format, sizes, nesting, parameters, leftovers,
refused words.

    scripts/check_house.py [ROOT]      prints path:line: problem; returns 1 where there is one
"""
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cpp_functions import functions_of, without_comments
from refused_words import check_words

# A folder at the top includes what lies on lower floors. Folders without a floor belong to the one they are in.
FLOOR = {"core": 0, "kernels": 1, "parallel": 1, "data": 1, "model": 2, "trainer": 3, "apps": 4}
# Rooms inside such a folder, in the same way, and the folder's own files.
INNER_FLOOR = {
    "core": 0, "core/process": 1, "core/files": 2, "core/reader": 3,
    "kernels/rows": 0, "kernels": 1,
    "parallel/collectives": 0, "parallel": 1,
    "data": 0, "model/block": 0, "model": 1, "apps": 0,
    "trainer/device": 0, "trainer/config": 1, "trainer/checkpoint": 2, "trainer/job": 2, "trainer/planner": 2,
    "trainer/health": 0, "trainer/analysis": 0, "trainer/evaluation": 2,
    "trainer/conversion": 3, "trainer/optimizer": 3, "trainer/generation": 4, "trainer": 4, "trainer/preflight": 5,
    "trainer/inspection": 5,
}
# What a room may see of a lower one, where that is not everything.
NARROW = {
    ("model", "parallel"): {"parallel/device_mesh.h", "parallel/param_role.h", "parallel/row_exchange.h"},
    ("model", "parallel/collectives"): {"parallel/collectives/communicator.h", "parallel/collectives/host_tensor.h"},
    ("model", "data"): {"data/batch.h"},
    ("trainer/evaluation", "data"): {"data/batch.h"},
    **{("trainer/evaluation", other): set() for other in ("kernels", "kernels/rows", "parallel", "parallel/collectives",
                                                          "model", "model/block", "trainer/device", "trainer/health")},
    **{("trainer/analysis", other): set() for other in ("kernels", "kernels/rows", "parallel", "parallel/collectives",
                                                        "data", "model", "model/block")},
    **{("trainer/device", other): set() for other in ("kernels", "kernels/rows", "parallel", "parallel/collectives",
                                                      "data", "model")},
}
CUDA_HOMES = r".*\.(cu|cuh)|parallel/collectives/nccl_communicator\.cpp"
# (what is included, the files that may, how to call it)
HOMES = [
    (r"mpi\.h", r"parallel/collectives/mpi_communicator\.cpp|apps/.*|tests/.*", "MPI"),
    (r"nccl.*\.h", r"parallel/collectives/nccl_communicator\.cpp", "NCCL"),
    (r"cudnn[^/]*\.h|ATen/cudnn/.*", r"kernels/cudnn/.*\.cpp", "cuDNN"),
    (r"(cuda|cublas|nvtx|nvToolsExt)[^/]*\.h|(cub|thrust|cutlass|cute|cuda|nvtx3|c10/cuda|ATen/cuda)/.*",
     CUDA_HOMES, "CUDA"),
    (r"yaml-cpp/.*", r"core/reader/config_reader[^/]*\.cpp", "yaml-cpp"),
    (r"spdlog/.*", r"core/log\.cpp", "spdlog"),
    (r"catch2/.*", r"tests/.*", "Catch2"),
    (r"torch/(torch|all|extension)\.h", r"(?!)", "torch/torch.h"),
]
MAX_LINES = {".h": 180, ".cuh": 180, ".cpp": 400, ".cu": 400, ".py": 400, "CMakeLists.txt": 220}
MAX_COLUMNS = 120  # of C++
MAX_FUNCTION_LINES = 70
MAX_NESTING = 4
MAX_PARAMETERS = 6
MAX_DOC_LINES = 8  # of a /// block: about six are usual
MAX_UNITS = 18  # of a room: a unit is X.h, X.cpp, X.cu, and X_index.h or X_element.h, which they share
# Headers that stand for a library's have its functions as they are.
OTHERS_FUNCTIONS = re.compile(r"tests/emulation/include/.*")
CLANG_FORMAT = 14  # the version: another one formats in another way
LEFTOVERS = [
    (re.compile(r"/(work|root)/"), "a path of one machine"),
    (re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b"), "a mark of unfinished work"),
]
CPP = {".h", ".cuh", ".cpp", ".cu"}
BINARY = {".safetensors", ".png", ".npy", ".gz", ".pdf"}
GENERATED = re.compile(r"(build.*|gpu_bundle|runs|tokens|__pycache__|\.(?!ci$|clang).*)")


def files_of(root):
    """Yields the paths below root, without build outputs, runs and hidden folders (.ci is a part of the house)."""
    for path in sorted(root.iterdir()):
        if path.name == ".git" or (GENERATED.fullmatch(path.name) and path.is_dir()):
            continue
        if path.is_dir():
            yield from files_of(path)
        elif path.is_file():
            yield path


def room_of(name):
    """Returns the room of a file: the innermost of its folders that is one, or None."""
    return next((folder for folder in map(str, Path(name).parents) if folder in INNER_FLOOR), None)


def check_include(name, target, quoted):
    """Returns the problem with one #include of the file `name`, or None."""
    for pattern, homes, library in HOMES:
        if re.fullmatch(pattern, target) and not re.fullmatch(homes, name):
            return f"{library} is not included here: <{target}>"
    room, other = room_of(name), room_of(target)
    if room is None or not quoted:
        return None
    if other is None:
        return f'"{target}" does not start with a room'
    top, other_top = room.split("/")[0], other.split("/")[0]
    floor, other_floor = ((FLOOR[top], FLOOR[other_top]) if top != other_top else
                          (INNER_FLOOR[room], INNER_FLOOR[other]))
    if room != other and other_floor >= floor:
        return f"{room} is on floor {floor} and may not include {other}, on floor {other_floor}"
    if target not in NARROW.get((room, other), {target}):
        return f"{room} may not include {target}"
    return None


def check_units(names):
    """Yields a problem for each room of too many units."""
    units = {}
    for name in names:
        if room_of(name) and Path(name).suffix in CPP:
            unit = re.sub(r"_(index|element)$", "", Path(name).stem)
            units.setdefault(str(Path(name).parent), set()).add(unit)
    yield from (f"{room}: {len(found)} units, more than {MAX_UNITS}" for room, found in units.items()
                if len(found) > MAX_UNITS)


def check_includes(name, text):
    pattern = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<([^>\n]+)>|"([^"\n]+)")', re.MULTILINE)
    for match in pattern.finditer(without_comments(text, keep_strings=True)):
        problem = check_include(name, match[1] or match[2], quoted=match[2] is not None)
        if problem:
            yield text.count("\n", 0, match.start()) + 1, problem


def check_functions(name, text):
    if name.endswith(".py"):
        functions = [(node.name, node.lineno, node.end_lineno - node.lineno + 1, 0, 0)
                     for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    else:
        functions = functions_of(text)
    for function, line, lines, nesting, parameters in functions:
        if lines > MAX_FUNCTION_LINES:
            yield line, f"{function} has {lines} lines, more than {MAX_FUNCTION_LINES}"
        if nesting > MAX_NESTING:
            yield line, f"{function} nests {nesting} deep, more than {MAX_NESTING}"
        if parameters > MAX_PARAMETERS and not OTHERS_FUNCTIONS.fullmatch(name):
            yield line, f"{function} has {parameters} parameters, more than {MAX_PARAMETERS}"


def check_length(path, text):
    limit = MAX_LINES.get(path.name) or MAX_LINES.get(path.suffix)
    lines = text.count("\n")
    if limit and lines > limit:
        yield lines, f"{lines} lines, more than {limit}"


def check_columns(text):
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MAX_COLUMNS:
            yield number, f"{len(line)} columns, more than {MAX_COLUMNS}"


def check_doc_blocks(text):
    """Yields a problem for each block of too many /// lines with text; ///< belongs to the line that it is on."""
    for block in re.finditer(r"(?:^[ \t]*///(?!<)[^\n]*\n)+", text, re.MULTILINE):
        lines = len(re.findall(r"///[ \t]*\S", block[0]))
        if lines > MAX_DOC_LINES:
            yield text.count("\n", 0, block.start()) + 1, f"a /// block of {lines} lines, more than {MAX_DOC_LINES}"


# int N in [&]<int N, bool kB>() would hide a variable N of the function around it, and no compiler warns of that.
LAMBDA_TEMPLATE = re.compile(r"\][ \t]*<([^<>;(){}]*)>[ \t\n]*[({]")
LAMBDA_VALUE = re.compile(r"\b(?:int|bool|auto|u?int\d+_t|size_t|unsigned)[ \t]+(?!k[A-Z])(\w+)")


def check_lambda_templates(text):
    text = without_comments(text)
    for match in LAMBDA_TEMPLATE.finditer(text):
        for value in LAMBDA_VALUE.finditer(match[1]):
            yield (text.count("\n", 0, match.start()) + 1,
                   f"{value[1]}, a template parameter of a lambda, may hide a variable: call it kLikeThis")


def check_leftovers(text):
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in LEFTOVERS:
            if pattern.search(line):
                yield number, f"{what}: {line.strip()[:80]}"


LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)")  # a relative one: of an address the colon is refused
NAMED_FILE = re.compile(r"`((?:apps|bench|cmake|configs|core|data|kernels|model|parallel|scripts|tests|trainer)/"
                        r"[\w/.-]+\.(?:h|cuh|cpp|cu|py|sh|yaml|cmake|md))`")
OLD_NAMES = re.compile(r"docs/(decisions|benchmarks)/.*")  # files as they were called at the time


def check_links(root, path, name, text):
    """Yields (line, problem) for links of a document to files that are not there, and for such files that it names."""
    for number, line in enumerate(text.splitlines(), 1):
        for target in LINK.findall(line):
            if not (path.parent / target).exists():
                yield number, f"a link to {target}, which is not there"
        for target in NAMED_FILE.findall(line) if not OLD_NAMES.fullmatch(name) else []:
            if "/X" not in target and not (root / target).exists():
                yield number, f"names {target}, which is not there"


def check_file(root, path):
    """Yields (line, problem) of one file."""
    if path.suffix in BINARY:
        return
    name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
    yield from check_leftovers(text)
    yield from check_words(name, text)
    yield from check_length(path, text)
    if path.suffix == ".md":
        yield from check_links(root, path, name, text)
    if path.suffix in CPP:
        yield from check_includes(name, text)
        yield from check_columns(text)
        yield from check_doc_blocks(text)
        yield from check_lambda_templates(text)
    if path.suffix in CPP | {".py"}:
        yield from check_functions(name, text)


def clang_format():
    """Returns the program of the right version, as Debian names it or as pip does, or None."""
    for name in (f"clang-format-{CLANG_FORMAT}", "clang-format"):
        program = shutil.which(name)
        if program and f"version {CLANG_FORMAT}." in subprocess.run([program, "--version"], capture_output=True,
                                                                    text=True).stdout:
            return program
    return None


def check_format(root, paths):
    """Yields a problem for each C++ file that clang-format would change by the .clang-format of the root."""
    names = [path.relative_to(root).as_posix() for path in paths if path.suffix in CPP]
    if not names or not (root / ".clang-format").exists():
        return
    program = clang_format()
    if program is None:
        yield (f".clang-format: clang-format {CLANG_FORMAT} is not installed: scripts/install_packages.sh test, or "
               f"pip install 'clang-format=={CLANG_FORMAT}.*'")
        return
    run = subprocess.run([program, "--dry-run", *names], cwd=root, text=True, stderr=subprocess.PIPE)
    places = re.findall(r"^(.+?):(\d+):\d+: warning: code should be clang-formatted", run.stderr, re.MULTILINE)
    first = {}
    for name, line in places:
        first.setdefault(name, line)
    yield from (f"{name}:{line}: not as clang-format {CLANG_FORMAT} formats it" for name, line in first.items())
    if run.returncode != 0:
        yield f".clang-format: clang-format {CLANG_FORMAT} failed: {run.stderr.strip()[:500]}"


def check_house(root):
    """Returns (number of files looked at, problems as lines of text)."""
    files = list(files_of(root))
    problems = [f"{path.relative_to(root)}:{line}: {problem}"
                for path in files for line, problem in check_file(root, path)]
    names = [path.relative_to(root).as_posix() for path in files]
    return len(files), [*problems, *check_units(names), *check_format(root, files)]


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    files, problems = check_house(root)
    print("\n".join(problems) if problems else f"{files} files, no problem")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""What other scripts read in sources in CUDA C++: the kernels, their launch bounds, and the constants in these."""
import re

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\(([^;{]*?)\)\s+)?(\w+)\(", re.DOTALL)
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
CONSTANTS = re.compile(r"^constexpr (?:int|int64_t|unsigned) ([^;]+);", re.MULTILINE)
MOST_THREADS = 1024  # of a block; the bound of a kernel that names none


def first_argument(text):
    """`text` up to its first comma outside of brackets."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            return text[:i]
    return text


def with_headers(text, root):
    """Yields the texts of this repository's headers that `text` includes, deepest first, then `text`."""
    for header in INCLUDE.findall(text):
        if (root / header).is_file():
            yield from with_headers((root / header).read_text(encoding="utf-8"), root)
    yield text


def own_kernels(text):
    """{kernel: the expression of its launch bound} of this text alone."""
    return {kernel: first_argument(bound) if bound else str(MOST_THREADS) for bound, kernel in KERNEL.findall(text)}


def launch_bounds(text, root):
    """The same with the kernels of the headers that it includes."""
    return {kernel: bound for part in with_headers(text, root) for kernel, bound in own_kernels(part).items()}


def value_of(expression, text, root):
    """The number that an expression of the constants of `text` and its headers is. Raises ValueError where it is none."""
    constants = {}
    for part in with_headers(text, root):
        for declared in CONSTANTS.findall(part):
            constants |= {name: value for name, value in re.findall(r"(\w+) = ([^,]+)", declared)}
    for _ in range(len(constants)):
        expanded = re.sub(r"[A-Za-z_]\w*", lambda name: f"({constants[name[0]]})" if name[0] in constants else name[0],
                          expression)
        if expanded == expression:
            break
        expression = expanded
    if not re.fullmatch(r"[\d\s+*/()]+", expression):
        raise ValueError(f"{expression} is no number")
    return int(eval(expression.replace("/", "//")))  # of digits and operators alone

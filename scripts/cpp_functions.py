"""Finds the functions of a C++ file, their length, depth of nesting and number of parameters, by its braces: a heuristic for check_house.py.

Comments, literals and preprocessor lines are blanked first. A brace that follows an expression opens an initializer,
every other one a namespace, a type, a function or, inside a function, a block.
"""
import re

LITERAL_OR_COMMENT = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
      | (?P<string>R"(?P<tag>[^()\s\\]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+')""",
    re.VERBOSE | re.DOTALL)
PREPROCESSOR = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
TYPE_HEAD = re.compile(r"^(typedef\s+)?(class|struct|union|enum)\b")
FUNCTION_TAIL = re.compile(r"(\)|\]|->[^()]*|\b(const|noexcept|override|final|mutable|try)|\)\s*&&?)\s*$")
BLOCK_TAIL = re.compile(r"(\)|\]|\)\s*->[^()]*|\b(else|do|try|mutable|noexcept|constexpr)|:)\s*$")


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def without_comments(text, keep_strings=False):
    """Blanks comments, and literals unless they are kept; every line keeps its number."""
    def replacement(match):
        if match["comment"] is not None:
            return blank(match[0])
        return match[0] if keep_strings else "0" + blank(match[0][1:])
    return LITERAL_OR_COMMENT.sub(replacement, text)


def without_template_head(head):
    """Drops leading `template <...>` with its nested brackets, access labels and attributes."""
    head = re.sub(r"\[\[.*?\]\]|\b(public|private|protected)\s*:(?!:)", " ", head, flags=re.DOTALL).strip()
    while match := re.match(r"template\s*<", head):
        depth, end = 1, match.end()
        while depth and end < len(head):
            depth += {"<": 1, ">": -1}.get(head[end], 0)
            end += 1
        head = head[end:].strip()
    return head


def kind_of(head, enclosing):
    """What the brace after `head` opens inside a brace of kind `enclosing`."""
    head = without_template_head(head)
    if enclosing == "initializer":
        # A lambda may stand inside an initializer; anything else is a nested one.
        return "block" if re.search(r"\[[^\]]*\]\s*(\([^)]*\)[\w\s:<>&*\->]*)?$", head) else "initializer"
    if enclosing in ("function", "block"):
        if TYPE_HEAD.match(head) and "(" not in head:
            return "type"
        return "block" if not head or BLOCK_TAIL.search(head) else "initializer"
    if re.match(r"(inline\s+)?namespace\b|extern\s+0\s*$", head):
        return "namespace"
    if TYPE_HEAD.match(head) and not re.search(r"\)\s*(const)?\s*$", head):
        return "type"
    if FUNCTION_TAIL.search(head) and not re.search(r"=\s*$|^[^(]*=", re.sub(r"operator\s*[=!<>+\-*/]*=", "", head)):
        return "function"
    return "initializer"


def name_of(head):
    match = re.search(r"([\w:~]+|operator\s*\S+?)\s*\(", without_template_head(head))
    return match[1] if match else "function"


def parameters_of(head):
    """The number of parameters between the first parentheses of a function's head."""
    head = without_template_head(head)
    name = re.search(r"([\w:~]+|operator\s*\S+?)\s*\(", head)
    if not name or not re.match(r"\s*[^\s)]", head[name.end():]):
        return 0
    depth, count = 0, 1
    for character in head[name.end():]:
        depth += {"(": 1, "<": 1, "[": 1, ")": -1, ">": -1, "]": -1}.get(character, 0)
        if depth < 0:
            break
        count += character == "," and depth == 0
    return count


def functions_of(text):
    """Returns [(name, first line, lines, nesting, parameters)] in the order of their ends. Lambdas belong to their function."""
    text = PREPROCESSOR.sub(lambda match: blank(match[0]), without_comments(text))
    stack, found, head, start, parentheses = [], [], "", 0, 0
    for position, character in enumerate(text):
        if character == "{":
            kind = kind_of(head, stack[-1]["kind"] if stack else "namespace")
            stack.append({"kind": kind, "head": head, "start": start, "parentheses": parentheses, "nesting": 0})
            head, parentheses = "", 0
        elif character == "}" and stack:
            closed = stack.pop()
            # An initializer, or a lambda inside parentheses, is a part of the expression that goes on behind it.
            goes_on = closed["kind"] == "initializer" or closed["parentheses"] > 0
            head = closed["head"] + "()" if goes_on else ""
            start, parentheses = closed["start"], closed["parentheses"]
            if closed["kind"] == "function":
                first = text.count("\n", 0, start) + 1
                lines = text.count("\n", start, position) + 1
                found.append((name_of(closed["head"]), first, lines, closed["nesting"], parameters_of(closed["head"])))
            elif stack:
                depth = closed["nesting"] + (closed["kind"] == "block")
                stack[-1]["nesting"] = max(stack[-1]["nesting"], depth)
        elif character == ";" and parentheses <= 0:
            head, parentheses = "", 0
        else:
            parentheses += {"(": 1, ")": -1}.get(character, 0)
            if not head.strip():
                start = position
            head += character
    return found

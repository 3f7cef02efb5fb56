"""Colors of runs, in the page and in PNGs. A run has one color in all charts, and the baseline one of its own."""

BASELINE = "#1b1f24"
LIGHT = ("#0b62c4", "#d1480f", "#0a8a5f", "#a03fb0", "#a87400", "#00889c", "#c2185b", "#5d6470")
# On a dark ground; PNGs have the light ones.
DARK_BASELINE = "#e4e8ec"
DARK = ("#6cb0ff", "#ff8a5c", "#4fd1a1", "#d59bec", "#e0b040", "#4fcbe0", "#ff7fab", "#a7b0bb")


def color_of(index, baseline):
    return BASELINE if index == baseline else LIGHT[index % len(LIGHT)]


def color_class(index, baseline):
    """The class of the page's style sheet."""
    return "base" if index == baseline else f"c{index % len(LIGHT)}"


def is_later(index, baseline):
    """Whether the run repeats the color of an earlier one, in another dash then."""
    return index // len(LIGHT) % 2 == 1 and index != baseline


def rules(colors, baseline):
    return "".join(f".{name} {{ color: {color}; }}\n" for name, color in
                   (("base", baseline), *((f"c{index}", color) for index, color in enumerate(colors))))


def style():
    """The classes of the style sheet."""
    return f"{rules(LIGHT, BASELINE)}@media (prefers-color-scheme: dark) {{\n{rules(DARK, DARK_BASELINE)}}}\n"

"""Numbers as the report writes them."""
import math

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
INTERVAL = "95\N{NO-BREAK SPACE}% interval"
UNITS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))


def number(value, decimals=4):
    text = f"{value:.{decimals}f}"
    return text.replace("-", "" if not float(text) else MINUS)


def signed(value, decimals=4):
    text = number(value, decimals)
    return text if text.startswith(MINUS) or not float(text) else f"+{text}"


def between(estimate, write=signed):
    return f"{write(estimate.low)} to {write(estimate.high)}"


def short(value):
    """Three significant digits: 0.0017, 1.2e18."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        digits, _, power = f"{value:.2e}".partition("e")
        text = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return text.replace("-", MINUS)


def count(value):
    """512 k, 1.28 M, 130 B"""
    for unit, size in UNITS:
        if value >= 0.9995 * size:
            return f"{short(value / size)} {unit}"
    return short(value)


def multiple(ratio):
    """How many times fewer (or more) tokens."""
    return f"{max(ratio, 1 / ratio):.2f}{TIMES}"


def time_unit(seconds):
    """(name, seconds of it) of the unit for times of up to so many seconds."""
    return next((name, size) for name, size in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
                if seconds >= 2 * size or size == 1)


def step_time(seconds):
    return f"{short(seconds * 1e3)} ms" if seconds < 1 else f"{short(seconds)} s"


def upper_first(words):
    return words[:1].upper() + words[1:]


def quoted(label):
    """A label within a sentence: in quotation marks where a comma in it would read as the sentence's."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{label}\N{RIGHT DOUBLE QUOTATION MARK}" if "," in label else label


def plural(count, word):
    return f"{count} {word}{'' if count == 1 else 's'}"


def names(labels, most=4):
    """a, b and c; of many the first."""
    labels = list(labels)
    if len(labels) > most:
        labels = [*labels[:most - 1], f"{len(labels) - most + 1} more"]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"

"""Pieces of the report's page. Every text is escaped here; a `Markup` is HTML already."""
from html import escape
from pathlib import Path

from study.colors import color_class, is_later, style
from study.svg import chart_svg

FOLDER = Path(__file__).parent


class Markup(str):
    """HTML, as other functions of this file return it."""


def text(value):
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def tag(name, *children, **attributes):
    """<name attributes>children</name>; `cls` is the class. An attribute that is None or "" is left out."""
    written = "".join(f' {"class" if key == "cls" else key}="{escape(value)}"' for key, value in attributes.items() if value)
    return Markup(f"<{name}{written}>{''.join(text(child) for child in children)}</{name}>")


def swatch(color, baseline):
    kind = color_class(color, baseline)
    return tag("span", cls=f"swatch {kind}{' later' if is_later(color, baseline) else ''}")


def small(*children):
    return tag("span", *children, cls="small")


class Cell:
    """A cell of a table: what is in it, lines in small type below it, and a class."""

    def __init__(self, value, below=(), cls=""):
        self.value, self.below, self.cls = value, below, cls

    def markup(self, name="td"):
        return tag(name, self.value, *map(small, self.below), cls=self.cls)


def cell_of(value):
    return value if isinstance(value, Cell) else Cell(value)


def table(header, rows, row_classes=()):
    """Header and rows of Cells or plain texts. It scrolls in its own frame where it is wider than the page."""
    classes = list(row_classes) or [""] * len(rows)
    head = tag("tr", *(cell_of(cell).markup("th") for cell in header))
    body = (tag("tr", *(cell_of(cell).markup() for cell in row), cls=kind) for row, kind in zip(rows, classes))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), cls="scroll")


def figure(chart, width, height, has_legend=False):
    """A chart with its title and note, and a legend where its colors are not those of the runs."""
    named = [(line.label, line.color) for line in chart.lines if not line.dashed] if has_legend else []
    return tag("figure", tag("h3", chart.title), Markup(chart_svg(chart, width, height)),
               legend(named) if len(named) > 1 else "", tag("figcaption", chart.note) if chart.note else "")


def legend(lines, baseline=None):
    return tag("div", *(tag("span", swatch(color, baseline), label) for label, color in lines), cls="legend")


def bullets(items):
    return tag("ul", *(tag("li", item) for item in items))


def pairs(items):
    return tag("dl", *(part for name, value in items for part in (tag("dt", name), tag("dd", value))))


def page(title, *children):
    """A whole page with its style and script in it: it asks no other address for anything."""
    sheet, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return ("<!DOCTYPE html>\n"
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title>\n<style>\n{sheet}{style()}</style></head>\n<body>\n"
            + "\n".join(text(child) for child in children if child)
            + f'\n<div id="tip"></div>\n<script>\n{script}</script>\n</body></html>\n')

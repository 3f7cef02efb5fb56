"""One page of all figures, as SVG with tooltips; it asks no other address for anything."""
from html import escape

import numpy as np

from routing.figures import ribbons
from routing.pictures import COLORS, MOST_TICKS
from study.html import FOLDER

WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 10, 44  # margins of a plot
SCRIPT = """"use strict";
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg.chart")) {
  svg.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  svg.addEventListener("pointermove", (event) => {
    const text = event.target.dataset.tip;
    tip.style.display = text ? "block" : "none";
    if (!text) return;
    tip.textContent = text;
    const right = event.clientX + 14, most = document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = Math.max(4, Math.min(right, most)) + window.scrollX + "px";
    tip.style.top = event.clientY + 14 + window.scrollY + "px";
  });
}
"""


def page(title, intro, figures):
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    body = "\n".join(f"<figure><h3>{escape(figure.title)}</h3>{svg(figure)}{legend(figure)}"
                     f"<figcaption>{escape(figure.note)}</figcaption></figure>" for figure in figures)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title>\n<style>\n{style}.grid-of {{ grid-template-columns: repeat(auto-fill, "
            f"minmax(min(100%, 520px), 1fr)); }}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n<p>{escape(intro)}</p>\n"
            f'<div class="grid-of">\n{body}\n</div>\n<div id="tip"></div>\n<script>\n{SCRIPT}</script>\n</body></html>\n')


def number(value):
    return f"{value:.4g}".replace("-", "\u2212")


def color_of(index, count):
    if count <= len(COLORS):
        return COLORS[index]
    return f"hsl({260 - 200 * index / max(1, count - 1):.0f} 60% 48%)"


def legend(figure):
    if figure.kind not in ("lines", "bars") or len(figure.lines) < 2:
        return ""
    parts = (f'<span><span class="swatch" style="background:{color_of(index, len(figure.lines))}"></span>{escape(line[0])}</span>'
             for index, line in enumerate(figure.lines))
    return f'<div class="legend">{"".join(parts)}</div>'


def svg(figure):
    marks = {"lines": lines, "bars": bars, "heat": heat, "flow": flow}[figure.kind](figure)
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(figure.title)}">'
            f'{"".join(marks)}</svg>')


def shape(kind, tip, **attributes):
    written = "".join(f' {key.replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    return f'<{kind}{written} data-tip="{escape(tip)}"/>' if tip else f"<{kind}{written}/>"


def words(x, y, text, cls="x"):
    return f'<text class="{cls}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def scale(low, high, begin, end):
    span = high - low if high > low else 1
    return lambda value: begin + (value - low) / span * (end - begin)


def round_step(span):
    """A step of 1, 2 or 5 times a power of ten that divides a span in about four to eight."""
    power = 10.0 ** np.floor(np.log10(span / 4))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= span / 4 * (1 + 1e-9))


def ticks(low, high):
    """Round numbers from the last one at or below `low` to the first one at or above `high`."""
    step = round_step(high - low if high > low else 1.0)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in np.arange(first, max(last, first + 1) + 1)]


def frame(figure, y_low, y_high):
    """(marks of the axes, y as a function of a value)"""
    values = ticks(y_low, y_high)
    y = scale(values[0], values[-1], HEIGHT - BOTTOM, TOP)
    marks = []
    for value in values:
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        marks.append(words(LEFT - 6, y(value) + 4, number(value), "y"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    marks.append(words(middle, HEIGHT - 6, figure.x_label, "label"))
    marks.append(f'<text class="label" transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">'
                 f"{escape(figure.y_label)}</text>")
    return marks, y


def lines(figure):
    values = np.concatenate([np.asarray(line[2], float) for line in figure.lines])
    places = np.concatenate([np.asarray(line[1], float) for line in figure.lines])
    marks, y = frame(figure, min(0.0, values.min()), values.max() if values.max() > 0 else 1.0)
    x = scale(places.min(), places.max(), LEFT + 6, WIDTH - RIGHT - 6)
    few = sorted(set(places.tolist()))
    at_ticks = few if len(few) <= 8 else [value for value in ticks(few[0], few[-1]) if few[0] <= value <= few[-1]]
    last = -np.inf
    for value in at_ticks:
        if x(value) - last > 34:  # labels do not touch
            marks.append(words(x(value), HEIGHT - BOTTOM + 16, number(value)))
            last = x(value)
    for index, (label, at, heights) in enumerate(figure.lines):
        color = color_of(index, len(figure.lines))
        points = " ".join(f"{x(a):.1f},{y(h):.1f}" for a, h in zip(at, heights))
        marks.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.7"/>')
        marks += [shape("circle", f"{label}, {figure.x_label} {number(a)}: {number(h)}", cx=f"{x(a):.1f}", cy=f"{y(h):.1f}", r=3.2,
                        style=f"fill: {color}") for a, h in zip(at, heights)]
    return marks


def bars(figure):
    most = max([max(heights) for _, heights in figure.lines] + [figure.level or 0])
    marks, y = frame(figure, 0.0, most if most > 0 else 1.0)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(figure.categories))
    width = 0.84 * step / max(1, len(figure.lines))
    every = max(1, len(figure.categories) // MOST_TICKS)
    for place, category in enumerate(figure.categories):
        left = LEFT + (place + 0.08) * step
        if place % every == 0:
            marks.append(words(LEFT + (place + 0.5) * step, HEIGHT - BOTTOM + 16, category))
        for index, (label, heights) in enumerate(figure.lines):
            tip = f"{label}, {figure.x_label} {category}: {number(heights[place])}"
            marks.append(shape("rect", tip, x=f"{left + index * width:.2f}", y=f"{y(heights[place]):.2f}", width=f"{width:.2f}",
                               height=f"{HEIGHT - BOTTOM - y(heights[place]):.2f}", fill=color_of(index, len(figure.lines))))
    if figure.level is not None:
        marks.append(shape("line", f"{figure.level_label}: {number(figure.level)}", x1=LEFT, x2=WIDTH - RIGHT,
                           y1=f"{y(figure.level):.1f}", y2=f"{y(figure.level):.1f}", stroke="currentColor", stroke_width=1.4,
                           stroke_dasharray="5 4"))
    return marks


def heat_color(share):
    """From dark blue (0) over green to yellow (1); of -1 to 0 red."""
    if share < 0:
        return f"hsl(8 70% {100 - 55 * min(1, -share):.0f}%)"
    return f"hsl({260 - 205 * share:.0f} {45 + 35 * share:.0f}% {24 + 38 * share:.0f}%)"


def heat(figure):
    rows, columns = figure.matrix.shape
    named = figure.y_label == "layer" or rows != columns
    row_names = [str(row) for row in range(rows)] if named else figure.categories
    low, high = min(0.0, float(figure.matrix.min())), float(figure.matrix.max())
    most = max(high, -low) or 1.0
    width, height = (WIDTH - LEFT - RIGHT) / columns, (HEIGHT - TOP - BOTTOM) / rows
    marks = []
    for (row, column), value in np.ndenumerate(figure.matrix):
        marks.append(shape("rect", f"{figure.y_label} {row_names[row]}, {figure.x_label} {figure.categories[column]}: {number(value)}",
                           x=f"{LEFT + column * width:.2f}", y=f"{TOP + row * height:.2f}", width=f"{width + 0.3:.2f}",
                           height=f"{height + 0.3:.2f}", fill=heat_color(value / most)))
    every = max(1, columns // MOST_TICKS), max(1, rows // 16)
    marks += [words(LEFT + (column + 0.5) * width, HEIGHT - BOTTOM + 16, figure.categories[column])
              for column in range(0, columns, every[0])]
    marks += [words(LEFT - 6, TOP + (row + 0.5) * height + 4, row_names[row], "y") for row in range(0, rows, every[1])]
    marks.append(words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, figure.x_label, "label"))
    marks.append(f'<text class="label" transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">'
                 f"{escape(figure.y_label)}</text>")
    return marks


def flow(figure):
    left, right, middle = LEFT + 16, WIDTH - LEFT - 16, WIDTH / 2
    y = scale(0, 1, TOP, HEIGHT - BOTTOM + 16)
    marks = []
    for i, j, from_top, to_top, height in ribbons(figure.matrix):
        a, b, c, d = y(from_top), y(to_top), y(to_top + height), y(from_top + height)
        path = (f"M{left} {a:.1f}C{middle} {a:.1f} {middle} {b:.1f} {right} {b:.1f}L{right} {c:.1f}"
                f"C{middle} {c:.1f} {middle} {d:.1f} {left} {d:.1f}Z")
        marks.append(shape("path", f"expert {i} to expert {j}: {number(100 * height)} % of pairs", d=path, fill=COLORS[i % len(COLORS)],
                           opacity=0.45))
    for shares, x in ((figure.matrix.sum(axis=1), LEFT), (figure.matrix.sum(axis=0), WIDTH - LEFT - 16)):
        tops = np.cumsum(shares) - shares
        for expert, (top, share) in enumerate(zip(tops, shares)):
            marks.append(shape("rect", f"expert {expert}: {number(100 * share)} %", x=x, y=f"{y(top):.1f}", width=16,
                               height=f"{y(top + share) - y(top):.1f}", fill=COLORS[expert % len(COLORS)]))
    marks.append(words(LEFT + 8, HEIGHT - 6, figure.x_label, "label"))
    marks.append(words(WIDTH - LEFT - 8, HEIGHT - 6, figure.y_label, "label"))
    return marks

"""Charts as inline SVG, with their points as JSON for the page's tooltips."""
import html
import json

import numpy as np

from study.axes import Scale, clipped, extent, x_text, x_ticks, y_ticks
from study.colors import color_class, is_later
from study.formats import number

RIGHT, TOP, BOTTOM = 20, 10, 42
AXIS_LABEL, DIGIT = 30, 7  # widths of the label of the y axis and of a character at its ticks
CROSS = 4.5  # half the size of the mark of a run that diverged


class Frame:
    """Where the axes are in a picture, in its units: about pixels."""

    def __init__(self, chart, width, height):
        x_low, x_high, y_low, y_high = extent(chart)
        self.width, self.height, self.top, self.bottom, self.right = width, height, TOP, height - BOTTOM, width - RIGHT
        self.y_scale = Scale(y_low, y_high, self.bottom, self.top, chart.y_log)
        self.y_ticks = y_ticks(chart, self.y_scale)
        self.left = AXIS_LABEL + DIGIT * max((len(text) for _, text in self.y_ticks), default=0)
        self.x_scale = Scale(x_low, x_high, self.left, self.right, chart.x_log)


def path(x, y):
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))


def cross(x, y):
    return f"M{x - CROSS:.1f},{y - CROSS:.1f}l{2 * CROSS},{2 * CROSS}m0,{-2 * CROSS}l{-2 * CROSS},{2 * CROSS}"


def line_svg(line, chart, frame):
    x, y, kind = frame.x_scale(line.x), frame.y_scale(line.y), color_class(line.color, chart.baseline)
    parts = []
    if line.low is not None:
        around = path(np.concatenate([x, x[::-1]]), np.concatenate([frame.y_scale(line.high), frame.y_scale(line.low)[::-1]]))
        parts.append(f'<path class="band {kind}" d="{around}Z"/>')
    dash = " dash" if line.dashed else " later" if is_later(line.color, chart.baseline) else ""
    dash += " thin" if line.diverged else ""
    if line.points:
        parts += [f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in zip(x, y)]
    if line.joined:
        parts.append(f'<path class="line {kind}{dash}" d="{path(x, y)}"/>')
    if line.diverged:  # also where the loss has left the frame
        at = clipped(y[-1], frame.top + 2 * CROSS, frame.bottom - 2 * CROSS)
        parts.append(f'<path class="line {kind}" d="{cross(x[-1], at)}"/>')
    return "".join(parts)


def ticks_svg(chart, frame):
    parts = []
    for tick, text in frame.y_ticks:
        at = float(frame.y_scale(tick))
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{at:.1f}" y2="{at:.1f}"/>'
                     f'<text class="y" x="{frame.left - 6}" y="{at + 4:.1f}">{text}</text>')
    for tick, text in x_ticks(chart, frame.x_scale):
        at = float(frame.x_scale(tick))
        parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{frame.bottom}" y2="{frame.bottom + 4}"/>'
                     f'<text class="x" x="{at:.1f}" y="{frame.bottom + 17}">{text}</text>')
    return "".join(parts)


def points_json(chart, frame):
    """What the page's script needs for tooltips: positions, and texts as the page writes numbers. No "<" is in it: it stands
    in a script element."""
    def value_of(value):
        return number(value, chart.decimals)

    lines = [{"label": line.label, "kind": color_class(line.color, chart.baseline), "x": [float(f"{x:.6g}") for x in line.x],
              "at": [x_text(chart, x) for x in line.x], "value": [value_of(y) for y in line.y],
              **({} if line.low is None else {"band": [f"{value_of(low)} to {value_of(high)}"
                                                       for low, high in zip(line.low, line.high)]})} for line in chart.lines]
    place = {"left": frame.left, "right": frame.right, "width": frame.width}
    text = json.dumps({"lines": lines, "bounds": frame.x_scale.bounds(), "frame": place, "xLog": chart.x_log,
                       "xLabel": chart.x_label}, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def chart_svg(chart, width, height):
    """The picture and its points; `chart.name` is unique in the page."""
    frame, name = Frame(chart, width, height), html.escape(chart.name)
    inner = "".join(line_svg(line, chart, frame) for line in chart.lines)
    zero = ""
    if chart.zero:
        at = float(frame.y_scale(0.0))
        zero = f'<line class="zero" x1="{frame.left}" x2="{frame.right}" y1="{at:.1f}" y2="{at:.1f}"/>'
    return (
        f'<svg class="chart" id="chart-{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(chart.title)}">'
        f'<clipPath id="clip-{name}"><rect x="{frame.left}" y="{frame.top}" width="{frame.right - frame.left}" '
        f'height="{frame.bottom - frame.top}"/></clipPath>{ticks_svg(chart, frame)}{zero}'
        f'<g clip-path="url(#clip-{name})">{inner}</g>'
        f'<text class="label" x="{(frame.left + frame.right) / 2}" y="{height - 6}">{html.escape(chart.x_label)}</text>'
        f'<text class="label" transform="translate(11 {(frame.top + frame.bottom) / 2}) rotate(-90)">'
        f'{html.escape(chart.y_label)}</text><line class="cursor" y1="{frame.top}" y2="{frame.bottom}"/></svg>'
        f'<script type="application/json" data-chart="chart-{name}">{points_json(chart, frame)}</script>')

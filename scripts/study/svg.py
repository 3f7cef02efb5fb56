"""Charts as inline SVG, with their points as JSON for the page's tooltips."""
import html
import json

import numpy as np

from study.axes import Scale, extent, x_ticks, y_ticks

WIDTH, HEIGHT = 480, 290  # in units of the picture, which fills its column
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 10, 42
COLORS = 8  # of the page's style sheet; later runs repeat them in another dash


def color_class(color, baseline):
    """The class of the color of a run; the baseline has one of its own."""
    return "base" if color == baseline else f"c{color % COLORS}"


def is_later(color, baseline):
    """Whether the run repeats the color of an earlier one."""
    return color // COLORS % 2 == 1 and color != baseline


def path(x, y):
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))


def line_svg(line, x_scale, y_scale, baseline):
    x, y, kind = x_scale(line.x), y_scale(line.y), color_class(line.color, baseline)
    parts = []
    if line.low is not None:
        around = path(np.concatenate([x, x[::-1]]), np.concatenate([y_scale(line.high), y_scale(line.low)[::-1]]))
        parts.append(f'<path class="band {kind}" d="{around}Z"/>')
    dash = " dash" if line.dashed else " later" if is_later(line.color, baseline) else ""
    if line.points:
        parts += [f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in zip(x, y)]
    if line.joined:
        parts.append(f'<path class="line {kind}{dash}" d="{path(x, y)}"/>')
    return "".join(parts)


def ticks_svg(chart, x_scale, y_scale, height):
    parts = []
    for tick, text in y_ticks(chart, y_scale):
        at = float(y_scale(tick))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
                     f'<text class="y" x="{LEFT - 6}" y="{at + 4:.1f}">{text}</text>')
    for tick, text in x_ticks(chart, x_scale):
        at = float(x_scale(tick))
        parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{height - BOTTOM}" y2="{height - BOTTOM + 4}"/>'
                     f'<text class="x" x="{at:.1f}" y="{height - BOTTOM + 17}">{text}</text>')
    return "".join(parts)


def points_json(chart, bounds, height):
    """What the page's script needs for tooltips. No "<" is in it: it stands in a script element."""
    def plain(values):
        return None if values is None else [float(f"{value:.6g}") for value in values]

    lines = [{"label": line.label, "kind": color_class(line.color, chart.baseline), "x": plain(line.x), "y": plain(line.y),
              "low": plain(line.low), "high": plain(line.high)} for line in chart.lines]
    frame = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": height - BOTTOM, "width": WIDTH}
    text = json.dumps({"lines": lines, "bounds": plain(bounds), "frame": frame, "xLog": chart.x_log, "yLog": chart.y_log,
                       "xKind": chart.x_kind, "decimals": chart.decimals, "xLabel": chart.x_label}, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def chart_svg(chart, height=HEIGHT):
    """The picture and its points; `chart.name` is unique in the page."""
    x_low, x_high, y_low, y_high = extent(chart)
    x_scale = Scale(x_low, x_high, LEFT, WIDTH - RIGHT, chart.x_log)
    y_scale = Scale(y_low, y_high, height - BOTTOM, TOP, chart.y_log)
    name = html.escape(chart.name)
    inner = "".join(line_svg(line, x_scale, y_scale, chart.baseline) for line in chart.lines)
    zero = ""
    if chart.zero:
        at = float(y_scale(0.0))
        zero = f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
    middle = (TOP + height - BOTTOM) / 2
    bounds = (*x_scale.bounds(), *y_scale.bounds())
    return (
        f'<svg class="chart" id="chart-{name}" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(chart.title)}">'
        f'<clipPath id="clip-{name}"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{height - TOP - BOTTOM}"/></clipPath>{ticks_svg(chart, x_scale, y_scale, height)}{zero}'
        f'<g clip-path="url(#clip-{name})">{inner}</g>'
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 6}">{html.escape(chart.x_label)}</text>'
        f'<text class="label" transform="translate(11 {middle}) rotate(-90)">{html.escape(chart.y_label)}</text>'
        f'<line class="cursor" y1="{TOP}" y2="{height - BOTTOM}"/></svg>'
        f'<script type="application/json" data-chart="chart-{name}">{points_json(chart, bounds, height)}</script>')

"""Charts as PNG by matplotlib."""
import io

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from study.axes import Scale, clipped, extent, x_ticks, y_ticks
from study.colors import BASELINE, color_of, is_later

def draw_line(axes, line, baseline, y_range):
    color = color_of(line.color, baseline)
    style = "--" if line.dashed else "-." if is_later(line.color, baseline) else "-"
    # matplotlib leaves labels that begin with _ out of legends.
    axes.plot(line.x, line.y, color=color, linestyle=style if line.joined else "none", linewidth=0.9 if line.diverged else 1.6,
              label="_" * line.dashed + line.label, markersize=4, marker="o" if line.points else None)
    if line.diverged:  # also where the loss has left the frame
        low, high = y_range
        axes.plot(line.x[-1], clipped(line.y[-1], low + 0.03 * (high - low), high - 0.03 * (high - low)), color=color,
                  marker="x", markersize=7, label="_cross")
    if line.low is not None:
        axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.16, linewidth=0)


def set_frame(axes, chart):
    axes.set_xscale("log" if chart.x_log else "linear")
    axes.set_yscale("log" if chart.y_log else "linear")
    x_low, x_high, y_low, y_high = extent(chart)
    for low, high, log, ticks_of, axis, limit in (
            (x_low, x_high, chart.x_log, x_ticks, axes.xaxis, axes.set_xlim),
            (y_low, y_high, chart.y_log, y_ticks, axes.yaxis, axes.set_ylim)):
        scale = Scale(low, high, 0.0, 1.0, log)
        ticks = ticks_of(chart, scale)
        limit(*scale.bounds())
        axis.set_ticks([tick for tick, _ in ticks], labels=[text for _, text in ticks])
        axis.set_ticks([], minor=True)


def png(chart):
    """The picture's bytes: the same chart gives the same ones, by the same version of matplotlib."""
    with matplotlib.rc_context(rc={key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for line in chart.lines:
            draw_line(axes, line, chart.baseline, extent(chart)[2:])
        if chart.zero:
            axes.axhline(0, color=BASELINE, linewidth=0.8)
        set_frame(axes, chart)
        # Labels are text: a dollar sign would begin mathematics.
        axes.set_title(chart.title, fontsize="medium", parse_math=False)
        axes.set_xlabel(chart.x_label, parse_math=False)
        axes.set_ylabel(chart.y_label, parse_math=False)
        axes.grid(alpha=0.25)
        for text in axes.legend(fontsize="x-small", ncols=1 + len(chart.lines) // 9).get_texts():
            text.set_parse_math(False)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=90, metadata={"Software": None})
    return picture.getvalue()

"""Figures as PNG, by matplotlib."""
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from routing.figures import ribbons

COLORS = ("#0b62c4", "#d1480f", "#0a8a5f", "#a03fb0", "#a87400", "#00889c", "#c2185b", "#5d6470")
MOST_TICKS = 32


def png(figure):
    """The bytes of a picture."""
    wide = figure.kind == "bars" and len(figure.categories) > 24
    picture, axes = plt.subplots(figsize=(11 if wide else 6.4, 6 if figure.kind == "flow" else 4.2), dpi=130)
    {"lines": draw_lines, "bars": draw_bars, "heat": draw_heat, "flow": draw_flow}[figure.kind](axes, figure)
    axes.set_title(figure.title, fontsize=11)
    if figure.kind != "flow":
        axes.set_xlabel(figure.x_label)
        axes.set_ylabel(figure.y_label)
    picture.tight_layout()
    buffer = io.BytesIO()
    picture.savefig(buffer, metadata={"Software": None})
    plt.close(picture)
    return buffer.getvalue()


def line_color(number, count):
    """A color of the few, or one of a scale where there are many layers."""
    return COLORS[number] if count <= len(COLORS) else plt.cm.viridis(number / max(1, count - 1))


def add_legend(axes, entries):
    if entries > 1:
        axes.legend(fontsize=8, ncol=2 if entries > 6 else 1, framealpha=0.7)


def draw_lines(axes, figure):
    for number, (label, x, y) in enumerate(figure.lines):
        axes.plot(x, y, label=label, color=line_color(number, len(figure.lines)), lw=1.6, marker="o" if len(x) < 12 else None,
                  ms=4)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    add_legend(axes, len(figure.lines))


def draw_bars(axes, figure):
    x, width = np.arange(len(figure.categories)), 0.84 / max(1, len(figure.lines))
    for number, (label, heights) in enumerate(figure.lines):
        axes.bar(x - 0.42 + (number + 0.5) * width, heights, width, label=label, color=line_color(number, len(figure.lines)))
    if figure.level is not None:
        axes.axhline(figure.level, color="#1b1f24", ls="--", lw=1.1, label=figure.level_label)
    step = max(1, len(x) // MOST_TICKS)
    axes.set_xticks(x[::step], figure.categories[::step], fontsize=8)
    axes.set_xlim(-0.6, len(x) - 0.4)
    add_legend(axes, len(figure.lines) + (figure.level is not None))


def draw_heat(axes, figure):
    signed = figure.matrix.min() < 0
    most = np.abs(figure.matrix).max()
    image = axes.imshow(figure.matrix, aspect="auto", cmap="RdBu_r" if signed else "viridis",
                        **({"vmin": -most, "vmax": most} if signed else {}))
    axes.figure.colorbar(image, ax=axes)
    step = max(1, len(figure.categories) // MOST_TICKS)
    axes.set_xticks(range(0, len(figure.categories), step), figure.categories[::step], fontsize=8)
    rows = figure.categories if figure.matrix.shape[0] == len(figure.categories) and figure.y_label != "layer" else \
        [str(row) for row in range(figure.matrix.shape[0])]
    step = max(1, len(rows) // MOST_TICKS)
    axes.set_yticks(range(0, len(rows), step), rows[::step], fontsize=8)


def draw_flow(axes, figure):
    for i, j, left, right, height in ribbons(figure.matrix):
        axes.add_patch(PathPatch(Path([(0.03, left), (0.5, left), (0.5, right), (0.97, right), (0.97, right + height),
                                       (0.5, right + height), (0.5, left + height), (0.03, left + height), (0.03, left)],
                                      [1, 4, 4, 4, 2, 4, 4, 4, 79]),
                                 fc=COLORS[i % len(COLORS)], ec="none", alpha=0.45))
    for shares, x in ((figure.matrix.sum(axis=1), 0), (figure.matrix.sum(axis=0), 0.97)):
        tops = np.cumsum(shares) - shares
        for expert, (top, share) in enumerate(zip(tops, shares)):
            axes.add_patch(Rectangle((x, top), 0.03, share, fc=COLORS[expert % len(COLORS)], ec="white", lw=0.4))
            if share > 0.02:
                axes.text(x + 0.015, top + share / 2, str(expert), ha="center", va="center", fontsize=7, color="white")
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    axes.set_xticks([0.015, 0.985], [figure.x_label, figure.y_label])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)

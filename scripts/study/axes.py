"""The frame and ticks of a chart: one for the page and the PNG."""
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from study.formats import count, number, short


MOST_VALUES = 6  # of x that have a tick each


class Scale:
    """Values to positions in the picture."""

    def __init__(self, low, high, begin, end, log):
        self.log = log
        self.low, self.high = (np.log(low), np.log(high)) if log else (low, high)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.begin, self.end = begin, end

    def __call__(self, values):
        values = np.log(values) if self.log else np.asarray(values, float)
        return self.begin + (values - self.low) / (self.high - self.low) * (self.end - self.begin)

    def bounds(self):
        return (float(np.exp(self.low)), float(np.exp(self.high))) if self.log else (self.low, self.high)

    def ticks(self, most):
        low, high = self.bounds()
        if self.log:
            subs = (1, 2, 5) if high / low < 200 else (1,)
            ticks = LogLocator(subs=subs, numticks=20).tick_values(low, high)
        else:
            ticks = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        slack = 1e-9 * (high - low)
        return [float(tick) for tick in ticks if low - slack <= tick <= high + slack]


def clipped(value, low, high):
    return min(max(float(value), low), high)


def extent(chart):
    """(x low, x high, y low, y high) of the frame."""
    x = np.concatenate([line.x for line in chart.lines])
    edges = [edge for line in chart.lines for edge in (line.y, line.low, line.high) if edge is not None]
    y = np.concatenate(edges)
    low, high = chart.y_range or (y.min(), y.max())
    if chart.zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not chart.y_range:
        pad = 0.06 * ((high - low) or abs(high) or 1.0)
        low, high = (low * 0.9, high * 1.1) if chart.y_log else (low - pad, high + pad)
    x_low, x_high = x.min(), x.max()
    if chart.x_log:
        pad = (x_high / x_low) ** 0.04
        x_low, x_high = x_low / pad, x_high * pad
    return float(x_low), float(x_high), float(low), float(high)


def x_text(chart, value):
    return (count if chart.x_kind == "count" else short)(value)


def x_ticks(chart, scale):
    """[(value, text)]"""
    values = chart.x_values if 0 < len(chart.x_values) <= MOST_VALUES else scale.ticks(6)
    return [(tick, x_text(chart, tick)) for tick in values]


def y_ticks(chart, scale):
    """[(value, text)], of a linear axis with as many decimals as its steps have."""
    ticks = scale.ticks(6)
    if chart.y_log:
        return [(tick, short(tick)) for tick in ticks]
    steps = np.diff(ticks)
    decimals = next((digits for digits in range(6) if all(abs(round(step, digits) - step) < 1e-9 for step in steps)), 6)
    return [(tick, number(tick, decimals)) for tick in ticks]

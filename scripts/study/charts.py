"""The charts of a report, as data: drawn as SVG in the page and as PNG by matplotlib."""
from dataclasses import dataclass, replace

import numpy as np

from study.comparability import pair_notes, run_notes
from study.formats import TIMES, time_unit, upper_first
from study.statistics import mean_estimate
from study.study_data import AXES, decimals_of, name_of

MOST_POINTS = 100  # of a line
MOST_BANDS = 4  # of differences; more would hide each other
CUT = 0.1  # the first tenth of a loss curve does not choose the frame


@dataclass(frozen=True)
class Line:
    """A line, with or without points, or points alone. `color`: index of a run, which has one color in all charts."""
    label: str
    color: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None  # of a band around it
    high: np.ndarray | None = None
    points: bool = False
    joined: bool = True
    dashed: bool = False
    diverged: bool = False  # a cross at its last point


@dataclass(frozen=True)
class Chart:
    name: str  # of its file
    title: str
    x_label: str
    y_label: str
    lines: list
    note: str = ""
    x_log: bool = False
    y_log: bool = False
    y_range: tuple | None = None  # None: all of the lines
    zero: bool = False  # a line at 0
    decimals: int = 4  # of y in tooltips
    x_kind: str = "count"  # how x is written: count (k, M, B) or number
    x_values: tuple = ()  # that have ticks, where there are few; else round numbers
    baseline: int | None = None  # index of the run; its color is that of the baseline


def over_seeds(curves):
    """(x, [seeds, x] values) of {seed: Curve} on the tokens of the first within those of all; None without any."""
    curves = [curve for curve in curves.values() if curve is not None]
    if not curves:
        return None
    low, high = max(curve.tokens[0] for curve in curves), min(curve.tokens[-1] for curve in curves)
    x = curves[0].tokens[(curves[0].tokens >= low) & (curves[0].tokens <= high)]
    if not len(x):
        return None
    x = x[np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))]
    return x, np.array([np.interp(x, curve.tokens, curve.values) for curve in curves])


def line_of(run, curves, points=False):
    """Mean over seeds with the band from the least to the greatest; None without a curve."""
    found = over_seeds(curves)
    if found is None:
        return None
    x, values = found
    band = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else (None, None)
    return Line(run.label, run.index, x, values.mean(axis=0), *band, points=points)


def diverged_lines(run):
    """The training loss of each seed that diverged, without smoothing."""
    out = []
    for seed, one in run.diverged.items():
        if curve := one.bins():
            of = f", seed {seed}" if len(run.run.seeds) > 1 else ""
            keep = np.unique(np.linspace(0, len(curve.tokens) - 1, MOST_POINTS).round().astype(int))
            out.append((one, Line(f"{run.label}{of}: diverged at step {one.result['diverged']}", run.index, curve.tokens[keep],
                                  curve.values[keep], diverged=True)))
    return out


def seeds_note(data):
    most = max(len(run.seeds) for run in data.runs)
    return "bands: least to greatest of the seeds" if most > 1 else "one seed"


def frame(lines):
    """The range of y without the first part of each line. Of bands the median width counts: a wide one may be cut off."""
    kept = []
    for line in lines:
        late = line.x >= line.x[0] + CUT * (line.x[-1] - line.x[0])
        below, above = (0.0, 0.0) if line.low is None else (np.median(line.y - line.low), np.median(line.high - line.y))
        kept += [line.y[late] - below, line.y[late] + above]
    values = np.concatenate(kept)
    pad = 0.04 * (values.max() - values.min() or abs(values.max()) or 1.0)
    return float(values.min() - pad), float(values.max() + pad)


def loss_chart(data, axis):
    """Training loss against tokens, FLOPs or time. None where no run has that axis."""
    lines, left_out = [], []
    for run in data.rows:
        mean = line_of(run, data.loss_curves(run))
        found = [(next(iter(run.seeds.values())), mean)] if mean else []
        for one, line in found + diverged_lines(run):
            x = data.at_axis(one, axis, line.x)
            if x is None:
                left_out.append(run.label)
            else:
                lines.append(replace(line, x=x))
    finished = [line for line in lines if not line.diverged]
    if not finished:
        return None
    x_label = AXES[axis]
    if axis == "time":
        unit, size = time_unit(max(line.x[-1] for line in lines))
        lines = [replace(line, x=line.x / size) for line in lines]
        x_label = f"steps {TIMES} step time measured alone, {unit}"
    parts = [f"mean of {data.smooth_steps} steps", seeds_note(data), "the frame cuts off the first tenth"]
    parts += ["cross: diverged, not smoothed"] if len(lines) > len(finished) else []
    parts += [f"step time not measured: {', '.join(dict.fromkeys(left_out))}"] if left_out else []
    parts += [note.text for run in data.runs for note in run_notes(run) if note.training]
    return Chart(f"loss_{axis}", f"Training loss against {axis if axis != 'flops' else 'FLOPs'}", x_label,
                 "training loss, nats", lines, "; ".join(parts), y_range=frame(finished), baseline=baseline_color(data),
                 x_kind="count" if axis == "tokens" else "number")


def baseline_color(data):
    return data.baseline.index if data.baseline else None


def heldout_chart(data):
    lines = [line for run in data.runs if (line := line_of(run, data.heldout_curves(run), points=True))]
    if not lines:
        return None
    return Chart("heldout_tokens", "Mean held-out loss against tokens", "tokens", "mean held-out loss, nats", lines,
                 "; ".join(["at the evaluations", seeds_note(data), *(note.text for run in data.runs for note in run_notes(run)
                                                                      if note.heldout)]), baseline=baseline_color(data))


def difference_chart(data):
    """Training loss minus the baseline's at equal tokens, paired by seed. None without a pair."""
    if data.baseline is None:
        return None
    theirs, lines = data.loss_curves(data.baseline), []
    for run in data.candidates:
        line = difference_line(run, data.loss_curves(run), theirs)
        if line is not None:
            lines.append(line)
    if not lines:
        return None
    has_band = any(line.low is not None for line in lines)
    if len(lines) > MOST_BANDS:
        lines = [replace(line, low=None, high=None) for line in lines]
    bands = "one seed: no interval" if not has_band else "bands: 95 % interval at each point" if len(lines) <= MOST_BANDS else (
        "intervals: in the table")
    notes = dict.fromkeys(note.text for run in data.candidates for note in pair_notes(run, data.baseline) if note.training)
    return Chart("difference", f"Training loss minus that of {data.baseline.label}", "tokens", "difference, nats", lines,
                 "; ".join([f"paired by seed, mean of {data.smooth_steps} steps", bands, *notes]),
                 y_range=frame(lines), zero=True, baseline=baseline_color(data))


def difference_line(run, ours, theirs):
    common = sorted(seed for seed in ours.keys() & theirs.keys() if ours[seed] and theirs[seed])
    found = over_seeds({(who, seed): curves[seed] for who, curves in (("ours", ours), ("theirs", theirs)) for seed in common})
    if found is None:
        return None
    x, values = found
    estimates = [mean_estimate(column) for column in (values[:len(common)] - values[len(common):]).T]
    band = ((np.array([one.low for one in estimates]), np.array([one.high for one in estimates]))
            if all(one.has_interval for one in estimates) else (None, None))
    return Line(run.label, run.index, x, np.array([one.value for one in estimates]), *band)


def series_chart(data, key):
    """A series of the runs in which it is not 0 throughout; None where there are none."""
    lines = []
    for run in data.runs:
        line = line_of(run, {seed: one.curve(key) for seed, one in run.seeds.items()})
        if line is not None and np.any(line.y != 0):
            lines.append(line)
    if not lines:
        return None
    return Chart(key, upper_first(name_of(key)), "tokens", name_of(key), lines,
                 f"mean of {data.smooth_steps} steps; {seeds_note(data)}", decimals=decimals_of(key),
                 y_range=None if key == "dead_experts" else frame(lines), baseline=baseline_color(data))


ROUTER_KEYS = ("max_expert_load", "expert_load_variation", "dead_experts", "router_entropy", "load_balancing_loss",
               "dropped_assignments")
TRAINING_KEYS = ("grad_norm", "lr")


def all_charts(data, compared):
    """{section: [Chart]} of all but the fits. `compared`: with differences to the baseline."""
    axes = data.study.report.get("axes") or list(AXES)
    loss = [chart for axis in axes if (chart := loss_chart(data, axis))]
    others = [chart for chart in (difference_chart(data) if compared else None, heldout_chart(data)) if chart]
    return {"curves": loss + others,
            "router": [chart for key in ROUTER_KEYS if (chart := series_chart(data, key))],
            "training": [chart for key in TRAINING_KEYS if (chart := series_chart(data, key))]}

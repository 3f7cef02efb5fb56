#!/usr/bin/env python3
"""Draws the curves of one or more training runs from their metrics.jsonl.

    scripts/plot_run.py RUN_FOLDER [RUN_FOLDER ...] [--output FILE.png]

Panels: training loss (raw and smoothed), held-out losses, gradient norm, learning rate, load-balancing loss,
tokens per second. The picture goes to RUN_FOLDER/plot.png of the first run unless --output names another file.
"""
import os
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module: now last.
FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != FOLDER] + [FOLDER]

import script_errors

if __name__ == "__main__":
    script_errors.stop_on_signals("plot_run.py")

import argparse
import io
import json
import math
from pathlib import Path

try:
    import matplotlib
except ImportError as error:
    sys.exit(f"error: {error}; scripts/install_packages.sh plot installs it")
matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRAIN_PANELS = [
    ("loss", "training loss, nats per token"),
    ("grad_norm", "gradient norm"),
    ("lr", "learning rate"),
    ("load_balancing_loss", "load-balancing loss (1 = balanced)"),
    ("tokens_per_s", "tokens per second"),
]


class MetricsError(Exception):
    """The metrics of a run are missing, empty or damaged."""


def read_metrics(folder):
    """Returns the lines of metrics.jsonl as dictionaries. A torn last line, as a killed run leaves it, is left out."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise MetricsError(f"{path}: no such file; a run folder is expected")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            metrics.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise MetricsError(f"{path}:{number}: {error}") from error
        if not isinstance(metrics[-1], dict) or "step" not in metrics[-1]:
            raise MetricsError(f"{path}:{number}: not an object with a step")
    if not any("loss" in line for line in metrics):
        raise MetricsError(f"{path}: no training step in it yet")
    return metrics


def series(metrics, key):
    """Returns (steps, values) of the lines that have the key. JSON has no NaN: null stands for it."""
    found = [(line["step"], line[key]) for line in metrics if key in line]
    return [step for step, _ in found], [math.nan if value is None else value for _, value in found]


def smoothed(values):
    """Exponential moving average over about a fiftieth of the run, with bias correction; NaN is passed over."""
    decay = 1 - 1 / max(1.0, len(values) / 50)
    total = weight = 0.0
    result = []
    for value in values:
        if math.isfinite(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        result.append(total / weight if weight else math.nan)
    return result


def draw_train(axes, label, metrics, key):
    steps, values = series(metrics, key)
    if key != "loss":
        axes.plot(steps, values, linewidth=1, label=label)
        return
    line, = axes.plot(steps, smoothed(values), linewidth=1.5, label=f"{label} (smoothed)")
    axes.plot(steps, values, linewidth=0.5, alpha=0.35, color=line.get_color())


def draw_heldout(axes, label, metrics):
    keys = sorted({key for line in metrics for key in line if key.startswith("eval/") and key.endswith("/loss")})
    for key in keys:
        name = key.removeprefix("eval/").removesuffix("/loss")
        axes.plot(*series(metrics, key), marker=".", linewidth=1, label=f"{label} {name}")
    return bool(keys)


def draw(runs, output):
    figure, grid = plt.subplots(2, 3, figsize=(15, 8), constrained_layout=True)
    heldout_axes, *train_axes = [grid[0][1], grid[0][0], grid[0][2], *grid[1]]
    for axes, (key, title) in zip(train_axes, TRAIN_PANELS):
        for label, metrics in runs.items():
            draw_train(axes, label, metrics, key)
        axes.set_title(title)
    drawn = [draw_heldout(heldout_axes, label, metrics) for label, metrics in runs.items()]
    heldout_axes.set_title("held-out loss, nats per token" if any(drawn) else "held-out loss: no evaluation yet")
    for axes in grid.flat:
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    save(figure, output)
    plt.close(figure)


def save(figure, output):
    """Writes the picture whole or not at all."""
    picture = io.BytesIO()  # matplotlib's writers of some formats fail a second time where a disk is full
    try:
        figure.savefig(picture, format=output.suffix.removeprefix(".") or "png", dpi=110)
    except ValueError as error:  # a suffix of no picture
        raise MetricsError(f"{output}: {error}") from None
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        temporary.write_bytes(picture.getvalue())
        os.replace(temporary, output)
    except OSError as error:
        raise MetricsError(f"{output}: cannot be written: {error.strerror}; choose another --output") from None
    finally:
        temporary.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description="Draws the curves of training runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--output", type=Path, help="PNG to write (default: plot.png in the first run's folder)")
    arguments = parser.parse_args()
    output = arguments.output or arguments.runs[0] / "plot.png"
    labels = [run.name if len({r.name for r in arguments.runs}) == len(arguments.runs) else str(run)
              for run in arguments.runs]
    draw({label: read_metrics(run) for label, run in zip(labels, arguments.runs)}, output)
    print(output)


if __name__ == "__main__":
    script_errors.run_script(main, "error:", (MetricsError,))

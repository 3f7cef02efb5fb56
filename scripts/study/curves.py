"""Smoothed curves of a run, and the tokens at which one curve reaches the final loss of another."""
from dataclasses import dataclass

import numpy as np

from study.statistics import Estimate, ReportError, mean_estimate


@dataclass(frozen=True)
class Curve:
    """Values at growing counts of tokens."""
    tokens: np.ndarray
    values: np.ndarray

    @property
    def final(self):
        return float(self.values[-1])


def smoothed(series, key, smooth_steps, start_tokens=0):
    """Moving mean of a series of bins over `smooth_steps` steps: full windows alone, each at the middle of its tokens.

    A trailing mean would lag and shortened windows at the ends would not be comparable. None where the key or a value is
    missing. `start_tokens`: those before the first bin, of a run that started from another one's checkpoint.
    """
    values = series.get(key)
    if values is None or any(value is None for value in values):
        return None
    bins = max(1, round(smooth_steps / series["bin_steps"]))
    if bins > len(values):
        raise ReportError(f"report.smooth_steps is {smooth_steps}, longer than a run of "
                          f"{len(values) * series['bin_steps']} steps; choose fewer")
    starts = np.concatenate([[max(series["step"][0] - series["bin_steps"], 0)], series["step"][:-1]])
    weights = np.asarray(series["step"], dtype=float) - starts  # the last bin may be short
    edges = np.concatenate([[start_tokens], series["tokens"]]).astype(float)
    window = np.ones(bins)
    means = np.convolve(np.asarray(values, float) * weights, window, "valid") / np.convolve(weights, window, "valid")
    return Curve((edges[:-bins] + edges[bins:]) / 2, means)


def bins_of(series, key):
    """The bins themselves, each at its last step; None where there are none."""
    values = series.get(key)
    if not values or any(value is None for value in values):
        return None
    return Curve(np.asarray(series["tokens"], float), np.asarray(values, float))


@dataclass(frozen=True)
class Crossing:
    """Where a curve reaches a loss."""
    status: str  # "reached", "before the first point" or "not reached"
    tokens: float | None = None


def tokens_to_reach(curve, target):
    """Tokens at which the curve falls to `target`, linear in log tokens between its points.

    A curve that ends above the target did not reach it. Where noise makes it cross several times, the length in log tokens
    that it spends above the target counts: the first crossing alone would be early, the last one late.
    """
    if curve.final > target:
        return Crossing("not reached")
    if (curve.values <= target).all():
        return Crossing("before the first point")
    x, over = np.log(curve.tokens), curve.values - target
    left, right = over[:-1], over[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = np.maximum(left, right) / np.abs(left - right)  # the share above, of a segment that crosses
    share = np.where((left > 0) & (right > 0), 1.0, np.where((left <= 0) & (right <= 0), 0.0, mixed))
    return Crossing("reached", float(np.exp(x[0] + (share * np.diff(x)).sum())))


@dataclass(frozen=True)
class EqualLoss:
    """Tokens of one run to the final loss of another, by seed."""
    crossings: dict  # {seed: Crossing}
    target_tokens: dict  # {seed: tokens at which the other has that loss}
    ratio: Estimate | None  # tokens of the other / tokens of this one, geometric mean; None: not reached in every seed

    @property
    def num_reached(self):
        return sum(crossing.status == "reached" for crossing in self.crossings.values())

    @property
    def num_before(self):
        return sum(crossing.status == "before the first point" for crossing in self.crossings.values())


def equal_loss(candidate, baseline):
    """Both {seed: Curve or None}; over the seeds that both have. None where there is none.

    The ratio is a mean of logarithms, since ratios are multiples. Where one seed does not reach the loss there is no
    mean: one over the others would be of chosen seeds.
    """
    common = sorted(seed for seed in candidate.keys() & baseline.keys() if candidate[seed] and baseline[seed])
    if not common:
        return None
    crossings = {seed: tokens_to_reach(candidate[seed], baseline[seed].final) for seed in common}
    targets = {seed: float(baseline[seed].tokens[-1]) for seed in common}
    ratio = None
    if all(crossing.status == "reached" for crossing in crossings.values()):
        ratio = mean_estimate([np.log(targets[seed] / crossings[seed].tokens) for seed in common]).exp()
    return EqualLoss(crossings, targets, ratio)

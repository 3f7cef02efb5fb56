"""Optima of losses that are quadratic in the logarithm of something: learning rates, model sizes at equal FLOPs."""
from dataclasses import dataclass, field, replace

import numpy as np
import statsmodels.api as sm

from study.statistics import Estimate, t_quantile, without_interval


@dataclass(frozen=True)
class Point:
    x: float
    seed: int
    loss: float


@dataclass(frozen=True)
class UCurve:
    """loss = level + slope u + curvature u^2 with u = log(x) - centre. `refused`: why there is no optimum, or ""."""
    refused: str
    optimum: Estimate | None = None  # in x
    lowest: float | None = None  # the fitted loss there
    centre: float = 0.0
    coefficients: tuple = ()  # level (mean over seeds), slope, curvature
    largest_residual: float = 0.0
    shifts: dict = field(default_factory=dict)  # {seed: its level above the mean one}

    def loss(self, x):
        u = np.log(x) - self.centre
        level, slope, curvature = self.coefficients
        return level + slope * u + curvature * u * u


def points_refused(points, diverged=()):
    """Why points cannot show a minimum, or "". `diverged`: x at which runs have no loss, as theirs was not finite."""
    values = sorted({point.x for point in points})
    if len(values) < 3:
        return f"{len(values)} different values, and a quadratic needs 3"
    # Seeds differ by a level: where some have every value, they alone decide.
    whole = [seed for seed in {point.seed for point in points}
             if len({point.x for point in points if point.seed == seed}) == len(values)]
    means = [np.mean([point.loss for point in points if point.x == x and (not whole or point.seed in whole)])
             for x in values]
    lowest = int(np.argmin(means))
    if lowest in (0, len(values) - 1):
        beyond = [x for x in diverged if (x > values[lowest]) == (lowest > 0)]
        what = "runs beyond it diverged: add values between" if beyond else "extend it"
        return f"the lowest loss is at the edge of the range, {values[lowest]:g}: {what}"
    return ""


def design(groups, names, centre, shared):
    """Columns: a level of each group and seed, a slope of each group, a curvature of each group or one of all."""
    levels = [(name, seed) for name in names for seed in sorted({point.seed for point in groups[name]})]
    rows, losses = [], []
    for name in names:
        for point in groups[name]:
            u, of_group = np.log(point.x) - centre, [float(name == other) for other in names]
            rows.append([float((name, point.seed) == level) for level in levels] + [u * one for one in of_group]
                        + ([u * u] if shared else [u * u * one for one in of_group]))
            losses.append(point.loss)
    return levels, np.array(rows), np.array(losses)


def fieller(slope, curvature, covariance, t):
    """The u at which the derivative slope + 2 curvature u does not differ from 0 at 95 %: (low, high) or None, unbounded.

    `covariance`: of slope and curvature, [2, 2]. Exact for normal noise, unlike an interval by the delta method.
    """
    quadratic = 4 * (curvature**2 - t**2 * covariance[1, 1])
    linear = 4 * (slope * curvature - t**2 * covariance[0, 1])
    constant = slope**2 - t**2 * covariance[0, 0]
    if quadratic <= 0:
        return None
    low, high = sorted(np.roots([quadratic, linear, constant]).real)
    return low, high


def optimum_of(fit, at_slope, at_curvature, centre):
    """The optimum in x, with its interval."""
    slope, curvature = fit.params[at_slope], fit.params[at_curvature]
    value, count = float(np.exp(centre - slope / (2 * curvature))), int(fit.nobs)
    if fit.df_resid < 1:
        return without_interval(value, count, "as many coefficients as points")
    pair = [at_slope, at_curvature]
    bounds = fieller(slope, curvature, np.asarray(fit.cov_params())[np.ix_(pair, pair)], t_quantile(fit.df_resid))
    if bounds is None:
        return without_interval(value, count, "the curvature is not distinguished from 0")
    low, high = (float(np.exp(centre + bound)) for bound in bounds)
    return Estimate(value, low, high, count, f"Fieller, {fit.df_resid:.0f} degrees of freedom")


def u_curves(groups, shared_curvature=False, diverged=None):
    """{group: [Point]} to {group: UCurve} by least squares, with the seeds of a group as levels of their own.

    With `shared_curvature` the groups have one curvature, which leaves more degrees of freedom where each has few points.
    `diverged`: {group: [x at which runs diverged]}.
    """
    out = {name: UCurve(points_refused(points, (diverged or {}).get(name, ()))) for name, points in groups.items()}
    names = [name for name, curve in out.items() if not curve.refused]
    for fitted in [names] if shared_curvature and names else [[name] for name in names]:
        centre = float(np.mean([np.log(point.x) for name in fitted for point in groups[name]]))
        levels, matrix, losses = design(groups, fitted, centre, shared_curvature)
        fit = sm.OLS(losses, matrix).fit()
        for index, name in enumerate(fitted):
            at_slope = len(levels) + index
            at_curvature = len(levels) + len(fitted) + (0 if shared_curvature else index)
            own = [number for number, level in enumerate(levels) if level[0] == name]
            coefficients = (float(fit.params[own].mean()), float(fit.params[at_slope]), float(fit.params[at_curvature]))
            mine = matrix[:, own].sum(axis=1) > 0
            shifts = {levels[number][1]: float(fit.params[number]) - coefficients[0] for number in own}
            curve = UCurve("", None, None, centre, coefficients, float(np.abs(fit.resid[mine]).max()), shifts)
            out[name] = with_optimum(curve, fit, (at_slope, at_curvature), [point.x for point in groups[name]])
    return out


def with_optimum(curve, fit, places, values):
    if curve.coefficients[2] <= 0:
        return UCurve("the curve opens downward: no minimum in it", None, None, curve.centre, curve.coefficients)
    optimum = optimum_of(fit, *places, curve.centre)
    if not min(values) <= optimum.value <= max(values):
        return UCurve(f"the fitted minimum, {optimum.value:.3g}, is outside the range: extend it", None, None,
                      curve.centre, curve.coefficients)
    return replace(curve, optimum=optimum, lowest=float(curve.loss(optimum.value)))

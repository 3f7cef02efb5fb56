"""Power laws of the loss, L = E + A x^-a, and of the best model size at equal FLOPs, N = k C^b."""
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import statsmodels.api as sm

from study.statistics import Estimate, t_quantile, without_interval
from study.u_curves import u_curves


@dataclass(frozen=True)
class PowerLaw:
    """L = E + A x^-a. `refused`: why there is no fit, or ""."""
    refused: str
    irreducible: Estimate | None = None  # E
    factor: Estimate | None = None  # A
    exponent: Estimate | None = None  # a
    scale: float = 1.0  # x is divided by it in the fit
    parameters: tuple = ()  # E, log A of x / scale, log a; without E where that is given
    covariance: np.ndarray | None = None
    freedom: int = 0

    def mean(self, x, parameters=None):
        values = self.parameters if parameters is None else parameters
        floor, (log_factor, log_exponent) = ((values[0], values[1:]) if len(values) == 3 else
                                             (self.irreducible.value, values))
        return floor + np.exp(log_factor - np.exp(log_exponent) * np.log(np.asarray(x, float) / self.scale))

    def predict(self, x):
        """The fitted loss at each x, and the half width of its 95 % interval (delta method; None without one)."""
        if self.freedom < 1:
            return self.mean(x), None
        steps = 1e-5 * np.eye(len(self.parameters))
        gradient = np.array([(self.mean(x, self.parameters + step) - self.mean(x, self.parameters - step)) / 2e-5
                             for step in steps])
        variance = np.einsum("i...,ij,j...->...", gradient, self.covariance, gradient)
        return self.mean(x), t_quantile(self.freedom) * np.sqrt(variance)


def fitted(model, x, y, guess):
    """curve_fit's coefficients and covariance, which is infinite where it cannot be estimated; (None, None): no convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)  # of such a covariance
        try:
            return scipy.optimize.curve_fit(model, x, y, guess, maxfev=20000)
        except RuntimeError:
            return None, None


def first_guess(z, losses, irreducible):
    """(E, log A, log a) of least squares over a grid of exponents, at each of which E and A are linear; None: no fall."""
    best = None
    for exponent in np.geomspace(0.01, 4, 120):
        power = z**-exponent
        columns = power[:, None] if irreducible is not None else np.stack([np.ones_like(z), power], axis=1)
        target = losses - (irreducible or 0.0)
        solution, *_ = np.linalg.lstsq(columns, target, rcond=None)
        error = float(((columns @ solution - target) ** 2).sum())
        if solution[-1] > 0 and (best is None or error < best[0]):
            floor = [solution[0]] if irreducible is None else []
            best = (error, [*floor, np.log(solution[-1]), np.log(exponent)])
    return best and best[1]


def fit_power_law(x, losses, irreducible=None):
    """Least squares of L = E + A x^-a; with `irreducible` E is given. Intervals: of Student's t, for A and a in logs."""
    x, losses = np.asarray(x, float), np.asarray(losses, float)
    needed = 3 if irreducible is None else 2
    if len(set(x)) < needed:
        return PowerLaw(f"{len(set(x))} different values, and {needed} coefficients need as many")
    scale = float(np.exp(np.log(x).mean()))
    guess = first_guess(x / scale, losses, irreducible)
    if guess is None:
        return PowerLaw("the loss does not fall")

    def model(z, *values):
        floor = values[0] if irreducible is None else irreducible
        return floor + np.exp(values[-2] - np.exp(values[-1]) * np.log(z))

    found, covariance = fitted(model, x / scale, losses, guess)
    if found is None:
        return PowerLaw("the points do not determine its coefficients")
    freedom = len(x) - needed
    exponent = float(np.exp(found[-1]))
    # log A = log A' + a log(scale), with A' of x / scale.
    to_factor = np.array([0.0] * (needed - 2) + [1.0, exponent * np.log(scale)])
    rows = {"exponent": np.eye(needed)[-1], "factor": to_factor} | ({"floor": np.eye(3)[0]} if needed == 3 else {})
    centres = {"exponent": found[-1], "factor": found[-2] + exponent * np.log(scale), "floor": found[0]}
    if freedom > 0 and not np.isfinite(covariance).all():
        return PowerLaw("the points do not determine its coefficients")
    estimates = {name: linear_estimate(centres[name], row, covariance, freedom, len(x)) for name, row in rows.items()}
    floor = estimates.get("floor") or without_interval(irreducible or 0.0, len(x), "given")
    return PowerLaw("", floor, estimates["factor"].exp(), estimates["exponent"].exp(), scale, tuple(found), covariance,
                    freedom)


def linear_estimate(value, row, covariance, freedom, count):
    """An estimate of a linear combination of coefficients."""
    if freedom < 1:
        return without_interval(value, count, "as many coefficients as points")
    half = t_quantile(freedom) * float(np.sqrt(row @ covariance @ row))
    return Estimate(float(value), float(value - half), float(value + half), count,
                    f"Student's t, {freedom} degrees of freedom")


@dataclass(frozen=True)
class IsoFlop:
    """The size of least loss at each budget of FLOPs, and N = k C^b through them."""
    refused: str
    budgets: dict  # {FLOPs: UCurve in N}
    exponent: Estimate | None = None  # b
    factor: Estimate | None = None  # k

    def size(self, flops):
        return self.factor.value * np.asarray(flops, float)**self.exponent.value


def fit_isoflop(groups):
    """{FLOPs: [Point of x = size]} to an IsoFlop: a parabola in log size for each budget, then a line through their minima."""
    budgets = u_curves(groups)
    found = {flops: curve for flops, curve in budgets.items() if not curve.refused}
    if len(found) < 2:
        return IsoFlop(f"{len(found)} budgets have a minimum, and a power law needs 2", budgets)
    log_flops = np.log(np.array(sorted(found)))
    log_sizes = np.log([found[flops].optimum.value for flops in sorted(found)])
    centre = log_flops.mean()  # the intercept would correlate with the slope
    fit = sm.OLS(log_sizes, np.stack([np.ones_like(log_flops), log_flops - centre], axis=1)).fit()
    freedom = len(found) - 2
    covariance = np.asarray(fit.cov_params()) if freedom else None
    exponent = linear_estimate(fit.params[1], np.array([0.0, 1.0]), covariance, freedom, len(found))
    log_factor = linear_estimate(fit.params[0] - centre * fit.params[1], np.array([1.0, -centre]), covariance, freedom,
                                 len(found))
    return IsoFlop("", budgets, exponent, log_factor.exp())


def group_by_budget(values, tolerance):
    """Indices of values that are within `tolerance` (relative) of the least of their group, as {geometric mean: [index]}."""
    order, groups = sorted(range(len(values)), key=lambda index: values[index]), []
    for index in order:
        if groups and values[index] <= values[groups[-1][0]] * (1 + tolerance):
            groups[-1].append(index)
        else:
            groups.append([index])
    return {float(np.exp(np.mean(np.log([values[index] for index in group])))): group for group in groups}

"""The critical batch size of runs that reach one loss (McCandlish et al., arXiv 1812.06162)."""
from dataclasses import dataclass

import numpy as np

from study.power_laws import fitted, linear_estimate
from study.statistics import Estimate


@dataclass(frozen=True)
class CriticalBatch:
    """(S / S_min - 1) (E / E_min - 1) = 1 of S steps and E tokens, so S = S_min (1 + B_crit / B)."""
    refused: str
    batch: Estimate | None = None  # B_crit = E_min / S_min, tokens
    steps: Estimate | None = None  # S_min
    tokens: Estimate | None = None  # E_min

    def steps_at(self, batch):
        return self.steps.value * (1 + self.batch.value / np.asarray(batch, float))


def fit_critical_batch(batches, steps):
    """Batches in tokens and the steps at which each reached the loss. Noise is taken as relative: a fit of log S."""
    batches, steps = np.asarray(batches, float), np.asarray(steps, float)
    if len(set(batches)) < 3:
        return CriticalBatch(f"{len(set(batches))} different batch sizes, and the curve needs 3")
    log_batches, middle = np.log(batches), float(np.log(batches).mean())

    def model(log_batch, log_steps, log_critical):
        return log_steps + np.logaddexp(0.0, log_critical - log_batch)

    guess = (float(np.log(steps.min()) - np.log(2)), middle)
    found, covariance = fitted(model, log_batches, np.log(steps), guess)
    if found is None:
        return CriticalBatch("the points do not determine it")
    if found[1] < log_batches.min() - np.log(10):
        return CriticalBatch("the steps hardly fall as the batch grows: it is far below all batch sizes; try smaller ones")
    if found[1] > log_batches.max() + np.log(10) or not np.isfinite(covariance).all():
        return CriticalBatch("the tokens hardly grow with the batch: it is far above all batch sizes; try larger ones")
    rows = {"batch": (found[1], [0.0, 1.0]), "steps": (found[0], [1.0, 0.0]), "tokens": (found.sum(), [1.0, 1.0])}
    estimates = {name: linear_estimate(value, np.array(row), covariance, len(batches) - 2, len(batches)).exp()
                 for name, (value, row) in rows.items()}
    return CriticalBatch("", **estimates)

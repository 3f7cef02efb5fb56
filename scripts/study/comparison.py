"""Every run against the baseline of its study, and the sentence that answers the question."""
import math
from dataclasses import dataclass

import numpy as np

from study.curves import EqualLoss, equal_loss
from study.formats import INTERVAL, between, multiple, names, number, plural, quoted, signed, upper_first
from study.statistics import Difference, mean_estimate, paired_difference
from study.study_data import HELDOUT, LOSS, decimals_of, name_of


@dataclass(frozen=True)
class Comparison:
    """A candidate against the baseline."""
    run: object
    differences: dict  # {key: Difference}
    equal_tokens: Difference  # of training loss, where the shorter of both ends
    ahead: EqualLoss | None  # the candidate to the baseline's final training loss
    behind: EqualLoss | None  # the baseline to the candidate's
    heldout_ahead: EqualLoss | None  # the same of the mean held-out loss
    heldout_behind: EqualLoss | None


def compared_keys(data):
    """Keys in the order of tables: each held-out set, their mean, training loss, the metrics that the study names."""
    mean = [HELDOUT] if data.heldout_keys else []
    named = [key for key in data.metrics if key not in (*data.heldout_keys, HELDOUT, LOSS)]
    return [*data.heldout_keys, *mean, LOSS, *named]


def value_at(curve, tokens):
    """A curve between its points; None before the first."""
    return float(np.interp(tokens, curve.tokens, curve.values)) if tokens >= curve.tokens[0] else None


def ends_differ(data):
    """Whether runs end at different counts of tokens: their final values are not of equal tokens then."""
    return len({one.tokens for one in data.seeds.values()}) > 1


def compare(data):
    """{name of a candidate: Comparison}; {} without a finished baseline."""
    if data.baseline is None:
        return {}
    base_loss, base_heldout = data.loss_curves(data.baseline), data.heldout_curves(data.baseline)
    out = {}
    for run in data.candidates:
        loss, heldout = data.loss_curves(run), data.heldout_curves(run)
        at_equal = [{seed: value_at(curves[seed], min(loss[seed].tokens[-1], base_loss[seed].tokens[-1]))
                     for seed in loss.keys() & base_loss.keys() if loss[seed] and base_loss[seed]}
                    for curves in (loss, base_loss)]
        out[run.name] = Comparison(
            run, {key: paired_difference(data.finals(run, key), data.finals(data.baseline, key))
                  for key in compared_keys(data)},
            paired_difference(*at_equal), equal_loss(loss, base_loss), equal_loss(base_loss, loss),
            equal_loss(heldout, base_heldout), equal_loss(base_heldout, heldout))
    return out


def equal_loss_text(found: EqualLoss | None):
    """2.10× fewer (1.80× to 2.45×); "not reached"; "reached in 2 of 3 seeds"."""
    if found is None:
        return "no seed in common"
    seeds = len(found.crossings)
    if found.ratio is None:
        if found.num_before == seeds:
            return "before its first point"
        if found.num_reached + found.num_before == 0:
            return "not reached"
        return f"reached in {found.num_reached + found.num_before} of {seeds} seeds"
    return ratio_text(found.ratio, "fewer")


def ratio_text(ratio, less):
    """2.10× fewer (1.80 to 2.45); of a ratio below 1 its inverse: 1.20× more (0.90 to 1.60)."""
    words = less if ratio.value >= 1 else "more"
    if not ratio.has_interval:
        return f"{multiple(ratio.value)} {words}"
    low, high = (ratio.low, ratio.high) if ratio.value >= 1 else (1 / ratio.high, 1 / ratio.low)
    return f"{multiple(ratio.value)} {words} ({low:.2f} to {high:.2f})"


def reached(found, loss, whose):
    """reaches the final training loss of X with 3.25× fewer tokens (1.71 to 6.21); "" where it does not."""
    if found is None or (found.ratio is None and not found.num_reached):
        return ""
    if found.ratio is None:
        return f"reaches the final {loss} of {whose} in {found.num_reached} of {plural(len(found.crossings), 'seed')}"
    ratio, _, bounds = equal_loss_text(found).partition(" (")
    return f"reaches the final {loss} of {whose} with {ratio} tokens" + (f" ({bounds}" if bounds else "")


def time_ratio(data, run, other, found):
    """Time of `other` to its final loss / time of `run` to it, of step times measured alone. None: not reached or measured."""
    if found is None or found.ratio is None:
        return None
    logs = []
    for seed, crossing in found.crossings.items():
        times = (data.seconds_at(other.seeds[seed], found.target_tokens[seed]),
                 data.seconds_at(run.seeds[seed], crossing.tokens))
        if None in times:
            return None
        logs.append(math.log(times[0] / times[1]))
    return mean_estimate(logs).exp()


def tokens_clause(comparison, baseline):
    """What an answer says of tokens to equal loss; "" where neither reaches the other's."""
    label, parts = quoted(comparison.run.label), []
    if comparison.ahead and comparison.ahead.ratio and comparison.heldout_ahead and comparison.heldout_ahead.ratio:
        loss, heldout = reached(comparison.ahead, "training loss", baseline), equal_loss_text(comparison.heldout_ahead)
        return f"it {loss} and the held-out loss with {heldout}"
    for loss, ahead, behind in (("training loss", comparison.ahead, comparison.behind),
                                ("held-out loss", comparison.heldout_ahead, comparison.heldout_behind)):
        if words := reached(ahead, loss, baseline):
            parts.append(f"it {words}")
        elif words := reached(behind, loss, label):
            parts.append(f"{baseline} {words}")
    return "; ".join(parts)


def difference_clause(estimate, label, baseline, key):
    """The difference in words."""
    decimals, metric = decimals_of(key), name_of(key)
    if estimate is None:
        return f"{label} and {baseline} have no seed in common: no difference can be paired"
    bounds = estimate.method
    if estimate.has_interval:
        bounds = f"{INTERVAL} {between(estimate, lambda value: signed(value, decimals))}, {plural(estimate.count, 'seed')}"
    if estimate.has_interval and not estimate.excludes_zero:
        return f"no difference between {label} and {baseline} is shown in {metric}: " \
               f"{signed(estimate.value, decimals)} nats ({bounds})"
    direction = "below" if estimate.value < 0 else "above"
    return f"{label} ends {number(abs(estimate.value), decimals)} nats {direction} {baseline} in {metric} ({bounds})"


def verdicts(comparisons, key):
    """Labels by what the interval of the difference says: lower, higher, open (0 is in it) and none (no interval)."""
    out = {"lower": [], "higher": [], "open": [], "none": []}
    for comparison in comparisons.values():
        estimate, label = comparison.differences[key].estimate, quoted(comparison.run.label)
        if estimate is None or not estimate.has_interval:
            out["none"].append(label)
        elif not estimate.excludes_zero:
            out["open"].append(label)
        else:
            out["lower" if estimate.value < 0 else "higher"].append(label)
    return out


def answer(data, comparisons):
    """What the numbers say of the question, with interval and seeds."""
    key = data.ranked_by
    if not comparisons:
        return answer_without_baseline(data, key)
    base = quoted(data.baseline.label)
    if len(comparisons) > 1:
        return answer_of_many(comparisons, key, base)
    comparison = next(iter(comparisons.values()))
    tokens = tokens_clause(comparison, base)
    text = difference_clause(comparison.differences[key].estimate, quoted(comparison.run.label), base, key)
    return upper_first(text) + (f"; {tokens}." if tokens else ".")


def answer_without_baseline(data, key):
    ranked = sorted((estimate.value, quoted(run.label), estimate.count) for run in data.runs
                    if (estimate := data.mean_final(run, key)))
    if not ranked:
        return f"No run has a {name_of(key)} of its last step."
    value, label, seeds = ranked[0]
    return f"Lowest {name_of(key)} of {plural(len(ranked), 'run')}: {label} with {number(value, decimals_of(key))} " \
           f"({plural(seeds, 'seed')}); there is nothing to compare it with."


def answer_of_many(comparisons, key, base):
    """The lowest of several, where there are intervals of those that have one, and what is shown of the others."""
    estimates = {quoted(one.run.label): one.differences[key].estimate for one in comparisons.values()
                 if one.differences[key].estimate is not None}
    if not estimates:
        return f"No run has a seed in common with {base}: no difference can be paired."
    ranked = {label: estimate for label, estimate in estimates.items() if estimate.has_interval} or estimates
    best = min(ranked, key=lambda label: ranked[label].value)
    text = difference_clause(ranked[best], best, base, key)
    found = verdicts(comparisons, key)
    if len(ranked) == 1:
        start = ""
    elif ranked[best].value >= 0:
        start = f"no variant ends below {base}; the nearest: "
    elif ranked[best].has_interval and not found["lower"]:
        start = f"no variant is shown to end below {base}; the lowest: "
    else:
        start = f"lowest of {plural(len(ranked), 'variant')}: "
    parts = [f"{words} {names(found[verdict])}" for verdict, words in (
        ("lower", "shown lower:"), ("higher", "shown higher:"), ("open", "not distinguished:"))
             if found[verdict] and len(found["open"]) < len(ranked)]
    without = len(found["none"])
    parts = (parts if len(ranked) > 1 else []) + ([f"{plural(without, 'other')} without an interval"] if without else [])
    return upper_first(start + text) + "".join(f"; {part}" for part in parts if without < len(comparisons)) + "."

"""Every run against the baseline of its study, and the sentence that answers the question."""
from dataclasses import dataclass

from study.curves import EqualLoss, equal_loss
from study.formats import between, multiple, names, number, plural, signed
from study.statistics import Difference, paired_difference
from study.study_data import HELDOUT, LOSS, decimals_of, name_of


@dataclass(frozen=True)
class Comparison:
    """A candidate against the baseline."""
    run: object
    differences: dict  # {key: Difference}
    ahead: EqualLoss | None  # the candidate to the baseline's final training loss
    behind: EqualLoss | None  # the baseline to the candidate's
    heldout_ahead: EqualLoss | None  # the same of the mean held-out loss
    heldout_behind: EqualLoss | None


def compared_keys(data):
    """Keys in the order of tables: each held-out set, their mean, training loss, the metrics that the study names."""
    mean = [HELDOUT] if data.heldout_keys else []
    named = [key for key in data.metrics if key not in (*data.heldout_keys, HELDOUT, LOSS)]
    return [*data.heldout_keys, *mean, LOSS, *named]


def compare(data):
    """{name of a candidate: Comparison}; {} without a finished baseline."""
    if data.baseline is None:
        return {}
    base_loss, base_heldout = data.loss_curves(data.baseline), data.heldout_curves(data.baseline)
    out = {}
    for run in data.candidates:
        loss, heldout = data.loss_curves(run), data.heldout_curves(run)
        out[run.name] = Comparison(
            run, {key: paired_difference(data.finals(run, key), data.finals(data.baseline, key))
                  for key in compared_keys(data)},
            equal_loss(loss, base_loss), equal_loss(base_loss, loss),
            equal_loss(heldout, base_heldout), equal_loss(base_heldout, heldout))
    return out


def difference_text(difference: Difference, decimals=4):
    """−0.0321 (95 % interval −0.0440 to −0.0202, 3 seeds)"""
    estimate = difference.estimate
    if estimate is None:
        return "no seed in common"
    if not estimate.has_interval:
        return f"{signed(estimate.value, decimals)} ({estimate.method})"
    bounds = between(estimate, lambda value: signed(value, decimals))
    return f"{signed(estimate.value, decimals)} (95 % interval {bounds}, {plural(estimate.count, 'seed')})"


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
    words = "fewer" if found.ratio.value >= 1 else "more"
    if not found.ratio.has_interval:
        return f"{multiple(found.ratio.value)} {words}"
    bounds = (found.ratio.low, found.ratio.high) if found.ratio.value >= 1 else (1 / found.ratio.high, 1 / found.ratio.low)
    return f"{multiple(found.ratio.value)} {words} ({bounds[0]:.2f} to {bounds[1]:.2f})"


def tokens_clause(comparison, baseline):
    """What an answer says of tokens to equal training loss; "" where neither reaches the other's."""
    ahead, behind = comparison.ahead, comparison.behind
    if ahead and ahead.ratio:
        return f"{comparison.run.label} reaches the final training loss of {baseline} with {equal_loss_text(ahead)} tokens"
    if behind and behind.ratio:
        return f"{baseline} reaches the final training loss of {comparison.run.label} with {equal_loss_text(behind)} tokens"
    if ahead and ahead.num_reached:
        return f"{comparison.run.label} reaches the final training loss of {baseline} in {ahead.num_reached} of " \
               f"{plural(len(ahead.crossings), 'seed')}"
    return ""


def difference_clause(comparison, baseline, key):
    """The difference in words."""
    estimate, label = comparison.differences[key].estimate, comparison.run.label
    decimals, metric = decimals_of(key), name_of(key)
    if estimate is None:
        return f"{label} and {baseline} have no seed in common: no difference can be paired"
    size = number(abs(estimate.value), decimals)
    direction = "below" if estimate.value < 0 else "above"
    if not estimate.has_interval:
        return f"{label} ends {size} nats {direction} {baseline} in {metric} ({estimate.method})"
    bounds = f"95 % interval {between(estimate, lambda value: signed(value, decimals))}, " \
             f"{plural(estimate.count, 'seed')}"
    if not estimate.excludes_zero:
        return f"no difference between {label} and {baseline} is shown in {metric}: " \
               f"{signed(estimate.value, decimals)} nats ({bounds})"
    return f"{label} ends {size} nats {direction} {baseline} in {metric} ({bounds})"


def verdicts(comparisons, key):
    """Labels by what the interval of the difference says: lower, higher, open (0 is in it) and none (no interval)."""
    out = {"lower": [], "higher": [], "open": [], "none": []}
    for comparison in comparisons.values():
        estimate = comparison.differences[key].estimate
        if estimate is None or not estimate.has_interval:
            out["none"].append(comparison.run.label)
        elif not estimate.excludes_zero:
            out["open"].append(comparison.run.label)
        else:
            out["lower" if estimate.value < 0 else "higher"].append(comparison.run.label)
    return out


def sentence(text):
    return text[:1].upper() + text[1:] + "."


def answer(data, comparisons):
    """What the numbers say of the question, with interval and seeds."""
    key = data.ranked_by
    if data.baseline is None or not comparisons:
        ranked = sorted((estimate.value, run.label, estimate.count) for run in data.runs
                        if (estimate := data.mean_final(run, key)))
        if not ranked:
            return f"No run has a {name_of(key)} of its last step."
        value, label, count = ranked[0]
        return f"Lowest {name_of(key)} of {plural(len(ranked), 'run')}: {label} with {number(value, decimals_of(key))} " \
               f"({plural(count, 'seed')}); no finished run to compare it with."
    base = data.baseline.label
    if len(comparisons) == 1:
        comparison = next(iter(comparisons.values()))
        tokens = tokens_clause(comparison, base)
        return sentence(difference_clause(comparison, base, key) + (f"; {tokens}" if tokens else ""))
    return answer_of_many(data, comparisons, key, base)


def answer_of_many(data, comparisons, key, base):
    known = [one for one in comparisons.values() if one.differences[key].estimate is not None]
    if not known:
        return f"No run has a seed in common with {base}: no difference can be paired."
    best = min(known, key=lambda one: one.differences[key].estimate.value)
    is_below = best.differences[key].estimate.value < 0
    start = (f"of {len(known)} variants {best.run.label} is lowest" if is_below else f"no variant ends below {base}") + ": "
    text = start + difference_clause(best, base, key)
    found = verdicts(comparisons, key)
    if len(found["none"]) == len(comparisons):
        return sentence(text)
    parts = [f"{words} {names(found[verdict])}" for verdict, words in (
        ("lower", "shown lower:"), ("higher", "shown higher:"), ("open", "not distinguished:"), ("none", "without interval:"))
        if found[verdict]]
    return sentence(f"{text}; against {base}, {'; '.join(parts)}")

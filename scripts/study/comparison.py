"""Every run against the baseline of its study, and the sentence that answers the question."""
import math
from dataclasses import dataclass

from study.comparability import difference_at_equal_tokens, pair_notes
from study.curves import EqualLoss, equal_loss
from study.formats import INTERVAL, between, count, multiple, names, number, plural, quoted, signed, upper_first
from study.statistics import mean_estimate
from study.study_data import HELDOUT, LOSS, decimals_of, diverged_text, name_of

EQUALLY = {"fewer": "as many", "less": "as much"}
MOST_NAMED = 4  # variants that an answer names one by one


@dataclass(frozen=True)
class Comparison:
    """A candidate against the baseline."""
    run: object
    differences: dict  # {key: Difference}
    notes: tuple  # comparability.Note
    ahead: EqualLoss | None  # the candidate to the baseline's final training loss
    behind: EqualLoss | None  # the baseline to the candidate's
    heldout_ahead: EqualLoss | None  # the same of the mean held-out loss
    heldout_behind: EqualLoss | None

    def notes_of(self, is_evaluated):
        """What is in the way of a difference of losses, of evaluations or of training."""
        return [note for note in self.notes if (note.heldout if is_evaluated else note.training)]


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
            run, {key: difference_at_equal_tokens(data, run, data.baseline, key) for key in compared_keys(data)},
            tuple(pair_notes(run, data.baseline)), equal_loss(loss, base_loss), equal_loss(base_loss, loss),
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
    words = EQUALLY[less] if multiple(ratio.value) == multiple(1) else f"{multiple(ratio.value)} {words}"
    if not ratio.has_interval:
        return words
    low, high = (ratio.low, ratio.high) if ratio.value >= 1 else (1 / ratio.high, 1 / ratio.low)
    return f"{words} ({low:.2f} to {high:.2f})"


def includes_one(ratio):
    return ratio is not None and ratio.has_interval and ratio.low <= 1 <= ratio.high


def reached(found, loss, whose):
    """reaches the final training loss of X with 3.25× fewer tokens (1.71 to 6.21); "" where it does not."""
    if found is None or (found.ratio is None and not found.num_reached):
        return ""
    if found.ratio is None:
        return f"reaches the final {loss} of {whose} in {found.num_reached} of {plural(len(found.crossings), 'seed')}"
    ratio, _, bounds = equal_loss_text(found).partition(" (")
    bounds = bounds.replace(")", ", 1 included)") if includes_one(found.ratio) else bounds
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
        loss, heldout = (reached(found, word, baseline) for found, word in ((comparison.ahead, "training loss"),
                                                                          (comparison.heldout_ahead, "held-out loss")))
        return f"it {loss} and the held-out loss with {heldout.partition(' with ')[2].replace(' tokens', '')}"
    for loss, ahead, behind in (("training loss", comparison.ahead, comparison.behind),
                                ("held-out loss", comparison.heldout_ahead, comparison.heldout_behind)):
        if words := reached(ahead, loss, baseline):
            parts.append(f"it {words}")
        elif words := reached(behind, loss, label):
            parts.append(f"{baseline} {words}")
    return "; ".join(parts)


def comparable_key(comparisons, key):
    """The key, or training loss where no run has an evaluation at the tokens of one of the baseline's."""
    has = {name: any(one.differences[name].estimate for one in comparisons.values()) for name in (key, LOSS)}
    return LOSS if has[LOSS] and not has[key] else key


def difference_clause(difference, label, baseline, key):
    """The difference in words."""
    decimals, metric, estimate = decimals_of(key), name_of(key), difference.estimate
    if estimate is None:
        return f"{label} and {baseline} have {difference.why}: no difference can be paired"
    bounds = estimate.method
    if estimate.has_interval:
        bounds = f"{INTERVAL} {between(estimate, lambda value: signed(value, decimals))}, {plural(estimate.count, 'seed')}"
    verb = "ends" if difference.tokens is None else "is"
    where = "" if difference.tokens is None else f" at {count(difference.tokens)} tokens, which both have"
    if estimate.has_interval and not estimate.excludes_zero:
        return f"no difference between {label} and {baseline} is shown in {metric}{where}: " \
               f"{signed(estimate.value, decimals)} nats ({bounds})"
    direction = "below" if estimate.value < 0 else "above"
    return f"{label} {verb} {number(abs(estimate.value), decimals)} nats {direction} {baseline} in {metric}{where} ({bounds})"


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


def answer_of_comparisons(data, comparisons, key):
    base = quoted(data.baseline.label)
    if len(comparisons) > 1:
        return answer_of_many(comparisons, key, base)
    comparison = next(iter(comparisons.values()))
    tokens = tokens_clause(comparison, base)
    text = upper_first(difference_clause(comparison.differences[key], quoted(comparison.run.label), base, key))
    return text + (f"; {tokens}." if tokens else ".")


def answer(data, comparisons):
    """What the numbers say of the question, with interval and seeds, and what is in the way of it."""
    key = data.ranked_by
    if not comparisons:
        text = answer_without_baseline(data, key)
    elif comparable_key(comparisons, key) != key:
        key, without = LOSS, name_of(key)
        text = f"No {without} at equal tokens. {answer_of_comparisons(data, comparisons, key)}"
    else:
        text = answer_of_comparisons(data, comparisons, key)
    diverged = diverged_text(data.rows)
    kinds = {data.is_evaluated(key), *([False] if name_of(LOSS) in text else [])}  # of losses that the text is about
    notes = dict.fromkeys(note.text for one in comparisons.values() for kind in kinds for note in one.notes_of(kind))
    return " ".join([text, *([f"Diverged: {diverged}."] if diverged else []),
                     *([f"Not like for like: {'; '.join(notes)}."] if notes else [])])


def answer_without_baseline(data, key):
    ranked = sorted((estimate.value, quoted(run.label), estimate.count) for run in data.runs
                    if (estimate := data.mean_final(run, key)))
    if not ranked:
        return f"No run has a {name_of(key)} of its last step."
    value, label, seeds = ranked[0]
    return f"Lowest {name_of(key)} of {plural(len(ranked), 'run')}: {label} with {number(value, decimals_of(key))} " \
           f"({plural(seeds, 'seed')}); there is nothing to compare it with."


def others_clause(ranked, best, key):
    """What the others of several differ by, where there are no intervals that would say it."""
    others = sorted((label for label in ranked if label != best), key=lambda label: ranked[label].value)
    if len(others) > MOST_NAMED:
        others = [others[0], others[-1]]
    words = [f"{label} {signed(ranked[label].value, decimals_of(key))}" for label in others]
    between_them = len(ranked) - 1 > len(others)
    return f"; the others: {' to '.join(words) if between_them else ', '.join(words)}"


def answer_of_many(comparisons, key, base):
    """The lowest of several, where there are intervals of those that have one, and what is shown of the others."""
    found = {quoted(one.run.label): one.differences[key] for one in comparisons.values()}
    estimates = {label: difference.estimate for label, difference in found.items() if difference.estimate is not None}
    if not estimates:
        why = sorted({difference.why for difference in found.values()})
        return f"No run can be compared with {base}: {', '.join(why)}."
    ranked = {label: estimate for label, estimate in estimates.items() if estimate.has_interval} or estimates
    best = min(ranked, key=lambda label: ranked[label].value)
    text = difference_clause(found[best], best, base, key)
    by_verdict = verdicts(comparisons, key)
    if len(ranked) == 1:
        start = ""
    elif ranked[best].value >= 0:
        start = f"no variant ends below {base}; the nearest: "
    elif ranked[best].has_interval and not by_verdict["lower"]:
        start = f"no variant is shown to end below {base}; the lowest: "
    else:
        start = f"lowest of {plural(len(ranked), 'variant')}: "
    text = upper_first(start + text)
    if not ranked[best].has_interval:
        return text + (others_clause(ranked, best, key) if len(ranked) > 1 else "") + "."
    parts = [f"{words} {names(by_verdict[verdict])}" for verdict, words in (
        ("lower", "shown lower:"), ("higher", "shown higher:"), ("open", "not distinguished:"))
             if by_verdict[verdict] and len(ranked) > 1 and len(by_verdict["open"]) < len(ranked)]
    if by_verdict["none"]:
        parts.append(f"{plural(len(by_verdict['none']), 'other')} without an interval")
    return text + "".join(f"; {part}" for part in parts) + "."

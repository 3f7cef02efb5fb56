"""What keeps losses of two runs from being compared as they are: where they end, and what they are losses of."""
from dataclasses import dataclass

import numpy as np

from study.formats import quoted
from study.statistics import Difference, paired_difference

EQUAL_TOKENS = 1e-3  # counts of tokens that differ by less are equal: batches of another size end elsewhere
MASKS = "data.instance_filter.repetition_max_count"


@dataclass(frozen=True)
class Note:
    """Why a loss is not what it seems."""
    text: str
    heldout: bool  # of held-out losses
    training: bool = True  # of training losses


def are_equal(tokens, other):
    return abs(tokens - other) <= EQUAL_TOKENS * max(tokens, other)


def looks_ahead(config):
    """Whether what a token's output is depends on later tokens, and how it is called; "" where it does not."""
    if config.get("model.routing") == "expert_choice":
        return f"model.routing: expert_choice, scope {config.get('model.expert_choice_scope', 'sequence')}"
    if config.get("model.capacity_factor") is not None and config.get("model.capacity_order") == "score":
        return "model.capacity_order: score"
    return ""


def run_notes(run):
    """Of the losses of a run alone."""
    config, out, label = run.first["config"], [], quoted(run.label)
    if ahead := looks_ahead(config):
        out.append(Note(f"{label} sees later tokens ({ahead}): its losses are not those of a causal model", True))
    if config.get(MASKS):
        out.append(Note(f"{label} has masked targets (data.instance_filter), which count as a loss of 0 in its training loss",
                        False))
    return out


def are_other_tokens(ours, theirs, kind, keys):
    fingerprints = [result["data"][kind] for result in (ours, theirs)]
    return any(ours["config"].get(key) != theirs["config"].get(key) for key in keys) or (
        None not in fingerprints and fingerprints[0] != fingerprints[1])


def pair_notes(run, base):
    """Of differences between a run and the baseline: what both have in common is not in the way."""
    ours, theirs = run.first, base.first
    out = []
    if looks_ahead(ours["config"]) != looks_ahead(theirs["config"]):
        out += [note for one in (run, base) for note in run_notes(one) if note.heldout]
    if ours["config"].get(MASKS) != theirs["config"].get(MASKS):
        out += [note for one in (run, base) for note in run_notes(one) if not note.heldout]
    label, other = quoted(run.label), quoted(base.label)
    if are_other_tokens(ours, theirs, "train", ("data.paths", "data.synthetic")):
        out.append(Note(f"{label} and {other} train on different data: so are their training losses", False))
    if are_other_tokens(ours, theirs, "evaluation", ("evaluation.paths", "evaluation.sets", "evaluation.max_sequences")):
        out.append(Note(f"{label} and {other} are evaluated on different data", True, False))
    lengths = [result["config"].get("data.sequence_length") for result in (ours, theirs)]
    if lengths[0] != lengths[1]:
        out.append(Note(f"{label} and {other} have sequences of {lengths[0]} and {lengths[1]} tokens: of longer ones "
                        "the loss is lower", True))
    return out


def ends_differ(data, runs=None):
    """Whether runs end at different counts of tokens: their final values are not of equal tokens then."""
    ends = [one.tokens for run in runs or data.runs for one in run.seeds.values()]
    return not are_equal(min(ends), max(ends))


def value_at(curve, tokens):
    """A curve between its points; None before the first and behind the last."""
    return float(np.interp(tokens, curve.tokens, curve.values)) if curve.tokens[0] <= tokens <= curve.tokens[-1] else None


def curves_at_equal_tokens(data, run, base, key, common):
    """(tokens, values of run, values of base) where the first of all curves ends; None without any."""
    curves = {one: {seed: one.seeds[seed].curve(key) for seed in common} for one in (run, base)}
    ends = [curve.tokens[-1] for found in curves.values() for curve in found.values() if curve]
    if not ends:
        return None
    return min(ends), *({seed: curve and value_at(curve, min(ends)) for seed, curve in curves[one].items()}
                        for one in (run, base))


def evaluations_at_equal_tokens(data, run, base, key, common):
    """The same of the last evaluation at equal tokens of each seed that both have."""
    points = {one: {seed: data.evaluated(one.seeds[seed], key) for seed in common} for one in (run, base)}
    ours, theirs, at = {}, {}, []
    for seed in common:
        pairs = [(tokens, value, other) for tokens, value in points[run][seed]
                 for other_tokens, other in points[base][seed] if are_equal(tokens, other_tokens)]
        if pairs:
            tokens, ours[seed], theirs[seed] = pairs[-1]
            at.append(tokens)
    return (max(at), ours, theirs) if at else None


def difference_at_equal_tokens(data, run, base, key):
    """Run minus baseline, paired by seed: of final values where both end at equal tokens, else where the shorter one ends."""
    common = sorted(run.seeds.keys() & base.seeds.keys())
    if not common or not ends_differ(data, [run, base]):
        return paired_difference(data.finals(run, key), data.finals(base, key))
    find = evaluations_at_equal_tokens if data.is_evaluated(key) else curves_at_equal_tokens
    found = find(data, run, base, key, common)
    left_out = tuple(sorted(run.seeds.keys() ^ base.seeds.keys()))
    if found is None:
        return Difference(None, {}, left_out, why="no evaluation at equal tokens")
    tokens, ours, theirs = found
    one = paired_difference(ours, theirs)
    return Difference(one.estimate, one.by_seed, tuple(sorted({*one.left_out, *left_out})), float(tokens),
                      "" if one.estimate else "no value at equal tokens")

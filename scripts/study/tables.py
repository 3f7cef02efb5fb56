"""The tables of a report."""
import os

from study import html
from study.comparability import ends_differ, run_notes
from study.comparison import compared_keys, equal_loss_text, ratio_text, time_ratio
from study.formats import between, count, names, number, plural, short, signed, step_time
from study.html import Cell, Markup
from study.spec import text_of
from study.study_data import HELDOUT, LOSS, decimals_of, name_of, set_name

ROUTER_COLUMN = ("max_expert_load", "dead_experts")
MOST_SETS = 4  # and metrics, beside the main chart
NOTHING = "\N{EN DASH}"
MARK = " *"  # of losses that are not what they seem


def is_marked(data, run, key):
    """Whether a loss of a run is not what it seems."""
    return key in (HELDOUT, LOSS, *data.heldout_keys) and any(
        note.heldout if data.is_evaluated(key) else note.training for note in run_notes(run))


def label_cell(data, run, compared=True, has_swatch=True):
    baseline = data.baseline.index if data.baseline else None
    notes = ["baseline"] if compared and run is data.baseline else []
    if len(run.seeds) + len(run.diverged) < len(run.run.seeds):
        notes.append(f"{len(run.seeds) + len(run.diverged)} of {plural(len(run.run.seeds), 'seed')}")
    if run.seeds:
        notes += [f"seed {seed} diverged at step {step}" for seed, step in run.diverged_at().items()]
    swatch = html.swatch(run.index, baseline) if has_swatch else ""
    return Cell(Markup(swatch + html.text(run.label)), notes)


def mean_cell(data, run, key, best=None):
    estimate = data.mean_final(run, key)
    if estimate is None:
        return Cell(NOTHING)
    return Cell(number(estimate.value, decimals_of(key)) + (MARK if is_marked(data, run, key) else ""),
                cls="best" if estimate.value == best else "")


def diverged_cell(run):
    """In place of the final loss of a run that has none."""
    return Cell("diverged", [f"at step {names(map(str, run.diverged_at().values()))}"], "warn")


def marks(comparison, data, key):
    """MARK where something is in the way of a difference of a loss."""
    is_loss = key in (HELDOUT, LOSS, *data.heldout_keys)
    return MARK if is_loss and comparison.notes_of(data.is_evaluated(key)) else ""


def difference_cell(data, comparison, key):
    """Bold where the interval excludes 0."""
    difference, decimals = comparison.differences[key], decimals_of(key)
    estimate = difference.estimate
    if estimate is None:
        return Cell(NOTHING, [difference.why])
    below = [between(estimate, lambda value: signed(value, decimals))] if estimate.has_interval else []
    below += [] if difference.tokens is None else [f"at {count(difference.tokens)} tokens"]
    return Cell(signed(estimate.value, decimals) + marks(comparison, data, key), below,
                "shown" if estimate.excludes_zero else "")


def tokens_cell(data, comparison):
    """The candidate to the baseline's training loss; where it does not get there, the way back."""
    found, mark = comparison.ahead, marks(comparison, data, LOSS)
    if found is None:
        return Cell(NOTHING)
    if found.ratio is None and comparison.behind and comparison.behind.ratio:
        return Cell(equal_loss_text(found) + mark, [f"baseline: {equal_loss_text(comparison.behind).partition(' (')[0]}"])
    main, _, bounds = equal_loss_text(found).partition(" (")
    return Cell(main + mark, [bounds.rstrip(")")] if bounds else [])


def router_cell(data, run):
    """Load of the busiest expert relative to the mean, and experts without a token."""
    load, dead = (data.mean_final(run, key) for key in ROUTER_COLUMN)
    if load is None or not load.value:
        return Cell(NOTHING)
    return Cell(f"{number(load.value, 2)} / {NOTHING if dead is None else short(dead.value)}")


def short_set_names(keys):
    """Names of held-out sets without the ending that they share: prose and cpp of prose_heldout and cpp_heldout."""
    sets = [set_name(key) for key in keys]
    shared = os.path.commonprefix([name[::-1] for name in sets])[::-1] if len(sets) > 1 else ""
    ending = shared[shared.find("_"):] if "_" in shared else ""
    return [name.removesuffix(ending) for name in sets]


def best_of(data, key):
    """The least mean of a loss, where all are of equal tokens; None for metrics of which less may be worse."""
    values = [estimate.value for run in data.runs if (estimate := data.mean_final(run, key))]
    is_loss = key in (HELDOUT, LOSS, *data.heldout_keys)
    return min(values) if values and len(data.runs) > 1 and is_loss and not ends_differ(data) else None


def named_metrics(data):
    """The study's metrics that have no column of their own."""
    return [key for key in compared_keys(data) if key not in (*data.heldout_keys, *ROUTER_COLUMN, HELDOUT, LOSS)]


def metrics_fit(data):
    return len(data.heldout_keys) + len(named_metrics(data)) <= MOST_SETS


def main_table(data, comparisons, has_swatches):
    ranked = data.ranked_by
    named = named_metrics(data) if metrics_fit(data) else []
    keys, differ = [*data.heldout_keys, *named], ends_differ(data)
    has_router = any(router_cell(data, run).value != NOTHING for run in data.runs)
    compared = [f"{'mean' if ranked == HELDOUT else 'loss'} minus baseline's", "tokens to baseline's training loss"]
    header = ["run", "mean" if ranked == HELDOUT else name_of(LOSS), *(compared if comparisons else []),
              *short_set_names(data.heldout_keys), *map(name_of, named), "step time", *(["tokens"] if differ else []),
              "FLOPs", *(["max load / dead"] if has_router else [])]
    best, rows = {key: best_of(data, key) for key in (ranked, *keys)}, []
    for run in data.rows:
        row = [label_cell(data, run, bool(comparisons), has_swatches),
               mean_cell(data, run, ranked, best[ranked]) if run.seeds else diverged_cell(run)]
        if comparisons:
            one = comparisons.get(run.name)
            row += [difference_cell(data, one, ranked), tokens_cell(data, one)] if one else [Cell("")] * 2
        first = next(iter((run.seeds or run.diverged).values()))
        row += [*(mean_cell(data, run, key, best[key]) for key in keys),
                step_time(run.step_time) if run.step_time else NOTHING, *([count(first.tokens)] if differ else []),
                short(float(first.flops_at(first.tokens)))]
        rows.append(row + ([router_cell(data, run)] if has_router else []))
    return html.table(header, rows, ["baseline" if comparisons and run is data.baseline else "" for run in data.rows])


def marked_notes(data, comparisons):
    """What is said of losses with a MARK."""
    notes = [run_notes(run) for run in data.runs] + [one.notes for one in comparisons.values()]
    return list(dict.fromkeys(note.text for some in notes for note in some))


def main_caption(data, comparisons):
    parts = []
    if data.heldout_keys:
        parts.append("mean, and columns by name of a set: final held-out loss, nats, means over seeds")
    if any(one.differences[data.ranked_by].estimate and one.differences[data.ranked_by].estimate.has_interval
           for one in comparisons.values()):
        parts.append("small: 95 % intervals; bold differences exclude 0")
    if any(one.ahead and one.ahead.ratio is None and one.behind and one.behind.ratio for one in comparisons.values()):
        parts.append("baseline: its tokens to the run's training loss")
    parts.append("step time: measured alone" if any(run.step_time for run in data.runs) else "step times: not measured")
    parts += [f"{MARK.strip()} {note}" for note in marked_notes(data, comparisons)]
    return "; ".join(parts)


def difference_table(data, comparisons):
    keys = compared_keys(data)
    rows = [[label_cell(data, one.run), *(difference_cell(data, one, key) for key in keys)] for one in comparisons.values()]
    return html.table(["run", *map(name_of, keys)], rows)


def metric_table(data, comparisons):
    """The metrics that the study names, where the main table has no room for them: means, and differences below them."""
    keys, rows = named_metrics(data), []
    for run in data.runs:
        cells, one = [mean_cell(data, run, key) for key in keys], comparisons.get(run.name)
        for cell, key in zip(cells, keys):
            if one and one.differences[key].estimate:
                difference = difference_cell(data, one, key)
                cell.below = [difference.value + (f" ({', '.join(difference.below)})" if difference.below else "")]
        rows.append([label_cell(data, run), *cells])
    return html.table(["run", *map(name_of, keys)], rows, ["baseline" if run is data.baseline else "" for run in data.runs])


def seeds_text(found):
    """The crossing of each seed."""
    if found is None:
        return NOTHING
    return "; ".join(f"seed {seed}: " + (f"{count(crossing.tokens)} of {count(found.target_tokens[seed])}"
                                         if crossing.tokens else crossing.status)
                     for seed, crossing in found.crossings.items())


def equal_loss_table(data, comparisons):
    rows, base = [], data.baseline
    for one in comparisons.values():
        for kind, ahead, behind in (("training loss", one.ahead, one.behind),
                                    ("mean held-out loss", one.heldout_ahead, one.heldout_behind)):
            both = [(first, second, found) for first, second, found in ((one.run, base, ahead), (base, one.run, behind)) if found]
            # Where one reaches the other's loss, that the other does not is no news.
            for first, second, found in [row for row in both if row[2].num_reached + row[2].num_before] or both:
                time = time_ratio(data, first, second, found)
                rows.append([Cell(f"{first.label} to the final loss of {second.label}", cls="text"), Cell(kind, cls="text"),
                             equal_loss_text(found), ratio_text(time, "less") if time else NOTHING,
                             Cell(seeds_text(found), cls="text")])
    header = ["", Cell("loss", cls="text"), "tokens", "time", Cell("by seed", cls="text")]
    return html.table(header, rows) if rows else ""


def seed_rows(data, run):
    keys = compared_keys(data)
    rows = []
    for seed, one in run.seeds.items():
        values = [data.final(one, key) for key in keys]
        rows.append([str(seed), *(NOTHING if value is None else number(value, decimals_of(key))
                                  for key, value in zip(keys, values))])
    for seed, step in run.diverged_at().items():
        rows.append([str(seed), f"diverged at step {step}", *[NOTHING] * (len(keys) - 1)])
    return html.table(["seed", *map(name_of, keys)], rows)


def run_details(data, run):
    """A run's overrides, versions, config hashes and the values of its seeds, to be unfolded."""
    result, results = run.first, [one.result for one in (run.seeds | run.diverged).values()]
    overrides = ", ".join(f"{key}={text_of(value)}" for key, value in result["overrides"].items()) or "none"
    parent = result["parent"]
    items = [("overrides", html.tag("code", overrides)),
             ("parameters", f"{count(result['parameters']['total'])} total, {count(result['parameters']['active'])} active"),
             ("length", f"{count(result['tokens'])} tokens, {plural(result['steps'], 'step')} of its own"),
             ("config hash", html.tag("code", result["config_hash"])),
             ("version", html.tag("code", ", ".join(sorted({str(one["version"]) for one in results}))))]
    if parent:
        items.insert(1, ("starts from", f"{parent['run']}, step {parent['step']}, {count(parent['tokens'])} tokens"))
    return html.tag("details", html.tag("summary", run.label, f" ({run.name})" if run.label != run.name else ""),
                    html.pairs(items), seed_rows(data, run))

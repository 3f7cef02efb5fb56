"""The tables of a report."""
import os

from study import html
from study.comparison import compared_keys, ends_differ, equal_loss_text, ratio_text, time_ratio
from study.formats import between, count, number, plural, short, signed, step_time
from study.html import Cell, Markup
from study.study_data import HELDOUT, LOSS, decimals_of, name_of, set_name, steps_of

ROUTER_COLUMN = ("max_expert_load", "dead_experts")
MOST_SETS = 4  # and metrics, beside the main chart
NOTHING = "\N{EN DASH}"


def label_cell(data, run):
    baseline = data.baseline.index if data.baseline else None
    notes = ["baseline"] if run is data.baseline else []
    if len(run.seeds) < len(run.run.seeds):
        notes.append(f"{len(run.seeds)} of {plural(len(run.run.seeds), 'seed')}")
    return Cell(Markup(html.swatch(run.index, baseline) + html.text(run.label)), ", ".join(notes))


def mean_cell(data, run, key, best=None):
    estimate = data.mean_final(run, key)
    if estimate is None:
        return Cell(NOTHING)
    return Cell(number(estimate.value, decimals_of(key)), cls="best" if estimate.value == best else "")


def difference_cell(difference, key):
    """Bold where the interval excludes 0."""
    if difference is None or difference.estimate is None:
        return Cell(NOTHING)
    estimate, decimals = difference.estimate, decimals_of(key)
    below = between(estimate, lambda value: signed(value, decimals)) if estimate.has_interval else ""
    return Cell(signed(estimate.value, decimals), below, "shown" if estimate.excludes_zero else "")


def tokens_cell(comparison):
    """The candidate to the baseline's training loss; where it does not get there, the way back."""
    found = comparison.ahead
    if found is None:
        return Cell(NOTHING)
    if found.ratio is None and comparison.behind and comparison.behind.ratio:
        return Cell(equal_loss_text(found), f"baseline: {equal_loss_text(comparison.behind).partition(' (')[0]}")
    main, _, bounds = equal_loss_text(found).partition(" (")
    return Cell(main, bounds.rstrip(")"))


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
    """The least mean of a loss; None for metrics of which less may be worse."""
    values = [estimate.value for run in data.runs if (estimate := data.mean_final(run, key))]
    return min(values) if values and len(data.runs) > 1 and key in (HELDOUT, LOSS, *data.heldout_keys) else None


def named_metrics(data):
    """The study's metrics that have no column of their own."""
    return [key for key in compared_keys(data) if key not in (*data.heldout_keys, *ROUTER_COLUMN, HELDOUT, LOSS)]


def metrics_fit(data):
    return len(data.heldout_keys) + len(named_metrics(data)) <= MOST_SETS


def main_table(data, comparisons):
    ranked = data.ranked_by
    named = named_metrics(data) if metrics_fit(data) else []
    keys = [*data.heldout_keys, *named]
    has_router = any(router_cell(data, run).value != NOTHING for run in data.runs)
    compared = [f"{'mean' if ranked == HELDOUT else 'loss'} minus baseline's", "tokens to baseline's training loss"]
    header = ["run", "mean" if ranked == HELDOUT else name_of(LOSS), *(compared if comparisons else []),
              *short_set_names(data.heldout_keys), *map(name_of, named), "step time", "FLOPs",
              *(["max load / dead"] if has_router else [])]
    best, rows = {key: best_of(data, key) for key in (ranked, *keys)}, []
    for run in data.runs:
        row = [label_cell(data, run), mean_cell(data, run, ranked, best[ranked])]
        if comparisons:
            one = comparisons.get(run.name)
            row += [difference_cell(one.differences[ranked], ranked), tokens_cell(one)] if one else [Cell("")] * 2
        first = next(iter(run.seeds.values()))
        flops = float(first.flops_at(first.tokens))
        row += [*(mean_cell(data, run, key, best[key]) for key in keys),
                step_time(run.step_time) if run.step_time else NOTHING, short(flops)]
        rows.append(row + ([router_cell(data, run)] if has_router else []))
    return html.table(header, rows, ["baseline" if run is data.baseline else "" for run in data.runs])


def main_caption(data, comparisons):
    parts = []
    if data.heldout_keys:
        parts.append("mean, and columns by name of a set: final held-out loss, nats, means over seeds")
    if any(one.differences[data.ranked_by].estimate and one.differences[data.ranked_by].estimate.has_interval
           for one in comparisons.values()):
        parts.append("small: 95 % intervals; bold differences exclude 0")
    parts.append("step time: measured alone" if any(run.step_time for run in data.runs) else "step times: not measured")
    return "; ".join(parts)


def difference_table(data, comparisons):
    keys = compared_keys(data)
    differ = ends_differ(data)
    rows = [[label_cell(data, one.run), *(difference_cell(one.differences[key], key) for key in keys),
             *([difference_cell(one.equal_tokens, LOSS)] if differ else [])] for one in comparisons.values()]
    return html.table(["run", *map(name_of, keys), *(["training loss at equal tokens"] if differ else [])], rows)


def metric_table(data, comparisons):
    """The metrics that the study names, where the main table has no room for them: means, and differences below them."""
    keys, rows = named_metrics(data), []
    for run in data.runs:
        cells, one = [mean_cell(data, run, key) for key in keys], comparisons.get(run.name)
        for cell, key in zip(cells, keys):
            estimate = one.differences[key].estimate if one else None
            if estimate:
                bounds = f" ({between(estimate, lambda value: signed(value, decimals_of(key)))})" if estimate.has_interval else ""
                cell.below = f"{signed(estimate.value, decimals_of(key))}{bounds}"
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
    return html.table(["seed", *map(name_of, keys)], rows)


def run_details(data, run):
    """A run's overrides, versions, config hashes and the values of its seeds, to be unfolded."""
    result, results = run.first, [one.result for one in run.seeds.values()]
    overrides = ", ".join(f"{key}={value_text(value)}" for key, value in result["overrides"].items()) or "none"
    parent = result.get("parent")
    items = [("overrides", html.tag("code", overrides)),
             ("parameters", f"{count(result['parameters']['total'])} total, {count(result['parameters']['active'])} active"),
             ("length", f"{count(result['series']['tokens'][-1])} tokens, {plural(steps_of(result), 'step')} of its own"),
             ("config hash", html.tag("code", ", ".join(sorted({one["config_hash"] for one in results})))),
             ("version", html.tag("code", ", ".join(sorted({str(one["version"]) for one in results}))))]
    if parent:
        items.insert(1, ("starts from", f"{parent['run']}, step {parent['step']}, {count(parent['tokens'])} tokens"))
    return html.tag("details", html.tag("summary", run.label, f" ({run.name})" if run.label != run.name else ""),
                    html.pairs(items), seed_rows(data, run))


def value_text(value):
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The report of a study: index.html, results.csv and PNGs of its curves and fits. The same results give the same bytes."""
import csv
import io
import os
from pathlib import Path

from study import html
from study.charts import all_charts
from study.comparison import answer, compare, compared_keys, ends_differ
from study.figures import png
from study.fits import make_fits
from study.formats import count, names, plural, upper_first
from study.html import Markup, tag
from study.statistics import BOOTSTRAP_FROM
from study.study_data import StudyData
from study.tables import (MOST_SETS, difference_table, equal_loss_table, main_caption, main_table, metric_table, metrics_fit,
                          run_details, value_text)

FIRST_HEIGHTS = (250, 190)  # of the charts of the first screen, beside the table
WIDE_HEIGHT = 225  # of those below it
FEW_RUNS = 3  # whose table leaves room for them


def write_report(study, results, step_times, folder):
    """Writes the report of results (parsed result files) and step times (of step_time.json, or None) into a folder.

    `study`: study.spec.Study. Returns the paths. ReportError says which result or key cannot be used.
    """
    data, comparisons, fits, sections = analyse(study, results, step_times)
    charts = sections["curves"] + [fit.chart for fit in fits if fit.chart]
    files = {"index.html": make_page(data, comparisons, fits, sections).encode(),
             "results.csv": make_csv(data).encode(), **{f"{chart.name}.png": png(chart) for chart in charts}}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def analyse(study, results, step_times):
    """(StudyData, {name: Comparison}, [FitResult], {section: [Chart]}) of which the files are made."""
    data = StudyData(study, results, step_times)
    fits = make_fits(data)
    comparisons = relevant(compare(data), data, fits)
    return data, comparisons, fits, all_charts(data, bool(comparisons))


def write_whole(path, content):
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def relevant(comparisons, data, fits):
    """The comparisons, but where the study asks for fits of runs in one seed each: its first run is no baseline then."""
    estimates = [one.differences[data.ranked_by].estimate for one in comparisons.values()]
    return comparisons if not fits or any(estimate and estimate.has_interval for estimate in estimates) else {}


def answer_text(data, comparisons, fits):
    """Fits first, where the study has some: they are what it asks."""
    found = [upper_first(fit.sentence) for fit in fits]
    return " ".join(found if fits and not comparisons else [*found, answer(data, comparisons)])


def scope_text(data):
    """How much the answer rests on."""
    results = [one.result for run in data.runs for one in run.seeds.values()]
    tokens = sorted({one.tokens for one in data.seeds.values()})
    sizes = sorted({(result["parameters"]["total"], result["parameters"]["active"]) for result in results})
    spans = [f"{count(values[0])} to {count(values[-1])}" if len(values) > 1 else count(values[0])
             for values in (tokens, [size[0] for size in sizes], sorted({size[1] for size in sizes}))]
    seeds = sorted({len(run.seeds) for run in data.runs})
    per_run = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return f"{plural(len(data.runs), 'run')}, {per_run} each, {spans[0]} tokens; parameters: {spans[1]}, {spans[2]} active."


def warning_text(data, comparisons):
    """What is missing, or ""."""
    parts = []
    if data.missing:
        by_run = {}
        for name, seed in data.missing:
            by_run.setdefault(name, []).append(str(seed))
        parts.append(f"{data.num_planned - data.num_finished} of {data.num_planned} runs have no result (failed or not run "
                     f"yet): {names((f'{name} seed {chr(44).join(seeds)}' for name, seeds in by_run.items()), 6)}.")
    if data.diverged:
        parts.append("Diverged, and left out of all curves, means, fits and differences: "
                     f"{names(f'{name} seed {seed} at step {step}' for (name, seed), step in data.diverged.items())}.")
    if data.baseline is None:
        parts.append("The baseline has no result: nothing is compared with it.")
    if comparisons and ends_differ(data):
        parts.append("Runs end at different counts of tokens, and final losses are compared as they are: at equal tokens see "
                     "the chart and table of differences.")
    if unequal := [one.run.label for one in comparisons.values() if one.differences[data.ranked_by].left_out]:
        parts.append(f"Differences to the baseline are of the seeds that both have: {names(unequal)}.")
    if without := [f"{run.label} seed {seed}" for run in data.runs for seed, one in run.seeds.items()
                   if data.heldout_keys and data.final(one, data.ranked_by) is None]:
        parts.append(f"Not every held-out loss of the last step is there: {names(without)}.")
    return " ".join(parts)


def first_screen(data, comparisons, fits, sections):
    study = data.study
    paper = study.paper or "The study names no answer of the paper."
    main = main_table(data, comparisons)
    shown = [chart for chart in sections["curves"] if chart.name in ("loss_tokens", "difference")]
    if fits and fits[0].chart:
        shown = [fits[0].chart, *shown[:1]]
    kind = "wide" if len(data.heldout_keys) > MOST_SETS or len(data.runs) <= FEW_RUNS else ""
    heights = (WIDE_HEIGHT, WIDE_HEIGHT) if kind else FIRST_HEIGHTS
    # A chart has its id once in the page: those shown here are not repeated below.
    pictures = tag("div", *(html.figure(chart, height, chart not in sections["curves"])
                           for chart, height in zip(shown, heights)), cls="pair")
    main = tag("div", main, tag("p", main_caption(data, comparisons), cls="note"))
    warning = warning_text(data, comparisons)
    return shown, [
        tag("p", f"study {study.name}", cls="study"), tag("h1", study.question),
        tag("div", tag("div", tag("h3", "The paper"), tag("p", paper), cls="card"),
            tag("div", tag("h3", "This study"), tag("p", answer_text(data, comparisons, fits)),
                tag("p", scope_text(data), cls="small"), cls="card ours"), cls="answers"),
        tag("p", warning, cls="warning") if warning else "",
        tag("div", main, pictures, cls=f"top {kind}".strip())]


def runs_legend(data, charts):
    baseline = data.baseline.index if data.baseline else None
    shown = {line.color for chart in charts for line in chart.lines}
    return html.legend([(run.label, run.index) for run in data.runs if run.index in shown], baseline)


def chart_section(data, title, charts):
    if not charts:
        return ""
    return Markup(tag("h2", title) + runs_legend(data, charts)
                  + tag("div", *(html.figure(chart) for chart in charts), cls="grid-of"))


def fit_section(fits, shown):
    if not fits:
        return ""
    parts = [tag("h2", "Fits")]
    for fit in fits:
        words = [tag("h3", fit.title), tag("p", upper_first(fit.sentence))]
        words += [html.table(fit.header, fit.rows)] if fit.rows else []
        words += [tag("p", note, cls="note") for note in fit.notes]
        picture = [html.figure(fit.chart, has_legend=True)] if fit.chart and fit.chart not in shown else []
        parts.append(tag("div", *picture, tag("div", *words), cls="fit" if picture else ""))
    return Markup("".join(parts))


def method_section(data, comparisons):
    several = max(len(run.seeds) for run in data.runs) > 1
    compared = bool(comparisons)
    items = [
        compared and "Differences are paired by seed: of each seed that both runs have, candidate minus baseline.",
        f"95 % intervals: Student's t below {BOOTSTRAP_FROM} seeds, a studentised bootstrap from there, none of one seed. "
        "Bold: the interval excludes 0." if several else "One seed: no intervals.",
        "Each interval is of one comparison: of twenty differences that are nothing, one is expected to look like something."
        if several and len(comparisons) > 1 else "",
        f"Training losses and router figures are means of the last {data.smooth_steps} steps; held-out losses are of the "
        "last evaluation.",
        compared and f"Tokens to equal training loss: where the moving mean of {data.smooth_steps} steps falls to the other's last one, "
        "linear in log tokens between points; of held-out loss, linear in log tokens between evaluations. Where noise makes "
        "a curve cross several times, the length that it spends above counts. Ratios are geometric means over seeds. A "
        "schedule that decays to the end makes these ratios small: before its end no run has the loss of a run that ends there.",
        "FLOPs count causal attention, forward and backward; those of a parent up to the fork are included, as its tokens are.",
        step_time_text(data)]
    return Markup(tag("h2", "How it was computed") + html.bullets(item for item in items if item))


def step_time_text(data):
    measured = [run for run in data.runs if run.step_time]
    if not measured:
        return "Step times were not measured (olmoe-study time does): there is no curve against time."
    rounds = max(sum(one["run"] == run.name for one in data.step_times["rounds"]) for run in measured)
    return f"Step times: medians of {plural(rounds, 'round')}, each run alone on {data.step_times['machine']}, in turn. " \
           "The clock of the runs themselves is not used."


def make_page(data, comparisons, fits, sections):
    shown, head = first_screen(data, comparisons, fits, sections)
    rest = [chart for chart in sections["curves"] if chart not in shown]
    tables = [] if metrics_fit(data) else [tag("h2", "Metrics"), metric_table(data, comparisons)]
    if comparisons:
        tables += [tag("h2", f"Differences to {data.baseline.label}"), difference_table(data, comparisons)]
        if equal := equal_loss_table(data, comparisons):
            tables += [tag("h2", "Tokens to equal loss"), equal]
    return html.page(
        f"{data.study.name}: {data.study.question}", *head, fit_section(fits, shown),
        chart_section(data, "Curves", rest), *tables, chart_section(data, "Routers", sections["router"]),
        chart_section(data, "Training", sections["training"]),
        tag("h2", "Runs"), *(run_details(data, run) for run in data.runs), method_section(data, comparisons),
        tag("p", "Beside this page: ", html.tag("a", "results.csv", href="results.csv"), " and a PNG of each curve and fit.", cls="note"))


def make_csv(data):
    """A line for each run and seed, numbers to six digits; a value that is missing is empty."""
    keys = compared_keys(data)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "label", "seed", "parameters_total", "parameters_active", "steps", "tokens", "flops", "step_time_s",
                     *keys, "overrides", "config_hash", "version"])
    for run in data.runs:
        for seed, one in run.seeds.items():
            result, values = one.result, [data.final(one, key) for key in keys]
            writer.writerow([
                run.name, run.label, seed, result["parameters"]["total"], result["parameters"]["active"], result["steps"],
                one.tokens, f"{float(one.flops_at(one.tokens)):.6g}", f"{run.step_time:.6g}" if run.step_time else "",
                *("" if value is None else f"{value:.6g}" for value in values),
                " ".join(f"{key}={value_text(value)}" for key, value in result["overrides"].items()),
                result["config_hash"], result["version"]])
    return buffer.getvalue()

"""The report of a study: index.html, results.csv and PNGs of its curves and fits. The same results give the same bytes."""
import csv
import io
from pathlib import Path

from study import html
from study.charts import all_charts
from study.comparability import EQUAL_TOKENS, ends_differ
from study.comparison import answer, compare, compared_keys
from study.figures import png
from study.files import write_whole
from study.fits import make_fits
from study.formats import count, names, plural, upper_first
from study.html import Markup, tag
from study.results import result_path
from study.spec import text_of
from study.statistics import BOOTSTRAP_FROM
from study.study_data import StudyData, diverged_text
from study.tables import (MOST_SETS, difference_table, equal_loss_table, main_caption, main_table, metric_table, metrics_fit,
                          run_details)

# Columns of the page at their usual width, and heights: text is then as large as that of the page.
SIDE = 392, (240, 190)  # of the charts of the first screen, beside the table
WIDE = 632, (260, 260)  # of those below it
GRID = 412, 250
FIT = 440, 265
FEW_RUNS = 3  # whose table leaves room for them


def write_report(study, results, step_times, folder):
    """Writes the report of results (parsed result files) and step times (of step_time.json, or None) into a folder.

    `study`: study.spec.Study. Returns the paths. ReportError says which result or key cannot be used.
    """
    folder = Path(folder)
    data, comparisons, fits, sections = analyse(study, results, step_times, strays_of(study, folder))
    charts = sections["curves"] + [fit.chart for fit in fits if fit.chart]
    files = {"index.html": make_page(data, comparisons, fits, sections), "results.csv": make_csv(data),
             **{f"{chart.name}.png": png(chart) for chart in charts}}
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def strays_of(study, folder):
    """Names of result files in a folder of results that are of no run of the study."""
    expected = {result_path(study, run.name, seed).name for run in study.runs for seed in run.seeds}
    return sorted({path.name for path in (folder / "runs").glob("*.json")} - expected)


def analyse(study, results, step_times, strays=()):
    """(StudyData, {name: Comparison}, [FitResult], {section: [Chart]}) of which the files are made."""
    data = StudyData(study, results, step_times, strays)
    fits = make_fits(data)
    comparisons = relevant(compare(data), data, fits)
    return data, comparisons, fits, all_charts(data, bool(comparisons))


def relevant(comparisons, data, fits):
    """The comparisons, but where the study asks for fits of runs in one seed each: its first run is no baseline then."""
    estimates = [one.differences[data.ranked_by].estimate for one in comparisons.values()]
    return comparisons if not fits or any(estimate and estimate.has_interval for estimate in estimates) else {}


def answer_text(data, comparisons, fits):
    """Fits first, where the study has some: they are what it asks."""
    found = [upper_first(fit.sentence) for fit in fits]
    return " ".join(found if fits and not comparisons else [*found, answer(data, comparisons)])


def scope_text(data, comparisons):
    """How much the answer rests on."""
    results = [one.result for run in data.runs for one in run.seeds.values()]
    all_diverged = len(data.rows) - len(data.runs)
    tokens = sorted({result["tokens"] for result in results})
    sizes = [(result["parameters"]["total"], result["parameters"]["active"]) for result in results]
    spans = [f"{count(min(values))} to {count(max(values))}" if count(min(values)) != count(max(values)) else count(min(values))
             for values in (tokens, *zip(*sizes))]
    seeds = sorted({len(run.seeds) for run in data.runs})
    per_run = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    runs = plural(len(data.rows), "run") + (f" ({all_diverged} diverged)" if all_diverged else "")
    text = f"{runs}, {per_run} each, {spans[0]} tokens; parameters: {spans[1]}, {spans[2]} active."
    if comparisons and seeds[-1] == 1:
        return f"{text} How much seeds differ is not known: a difference may be chance."
    estimates = [one.differences[data.ranked_by].estimate for one in comparisons.values()]
    with_interval = sum(estimate is not None and estimate.has_interval for estimate in estimates)
    return text + (f" Each of the {with_interval} intervals is of one comparison alone." if with_interval > 1 else "")


def seeds_by_run(keys):
    """a seed 1,2 and b seed 1 of [(run, seed)]"""
    by_run = {}
    for name, seed in keys:
        by_run.setdefault(name, []).append(str(seed))
    return names((f"{name} seed {','.join(seeds)}" for name, seeds in by_run.items()), 6)


def changed_text(changed):
    """Results of another config, those with the same changes together."""
    by_changes = {}
    for key, changes in changed.items():
        by_changes.setdefault("; ".join(changes), []).append(key)
    found = ", ".join(f"{seeds_by_run(keys)} ({changes})" for changes, keys in by_changes.items())
    return f"Results of another config than the study has now, left out: {found}."


def warning_text(data, comparisons, answered=False):
    """What is missing or left out, or "". `answered`: the answer names what diverged."""
    parts = []
    if data.missing:
        parts.append(f"{len(data.missing)} of {data.num_planned} runs have no result (failed or not run yet): "
                     f"{seeds_by_run(data.missing)}.")
    if data.changed:
        parts.append(changed_text(data.changed))
    if data.strays:
        parts.append(f"Result files of no run of the study, left out: {names(data.strays)}.")
    if diverged := diverged_text(data.rows):
        parts.append("Runs that diverged are in no mean, fit or difference"
                     + ("." if answered else f": {diverged}."))
    if data.baseline is None:
        parts.append("The baseline has no final loss: nothing is compared with it.")
    if comparisons and ends_differ(data):
        parts.append("Runs end at different counts of tokens: differences are where the shorter of both ends, or at the last "
                     "evaluation that both have; the longer one's schedule is not at its end there.")
    if unequal := [one.run.label for one in comparisons.values() if one.differences[data.ranked_by].left_out]:
        parts.append(f"Differences to the baseline are of the seeds that both have: {names(unequal)}.")
    if without := [f"{run.label} seed {seed}" for run in data.runs for seed, one in run.seeds.items()
                   if data.heldout_keys and data.final(one, data.ranked_by) is None]:
        parts.append(f"Not every held-out loss of the last step is there: {names(without)}.")
    return " ".join(parts)


def first_charts(comparisons, fits, sections):
    """Those of the first screen: of the fits, where they are what the study asks, else losses and differences."""
    of_fits = [fit.chart for fit in fits if fit.chart]
    curves = [chart for chart in sections["curves"] if chart.name in ("loss_tokens", "difference")]
    if of_fits and not comparisons:
        return of_fits[:2]
    return [*of_fits[:1], *curves][:2]


def first_screen(data, comparisons, fits, sections):
    study = data.study
    paper = study.paper or "The study names no answer of the paper."
    shown = first_charts(comparisons, fits, sections)
    has_curves = any(chart in sections["curves"] for chart in shown)
    wide = len(data.heldout_keys) > MOST_SETS or len(data.rows) <= FEW_RUNS
    width, heights = WIDE if wide else SIDE
    # A chart has its id once in the page: those shown here are not repeated below.
    pictures = tag("div", *(html.figure(chart, width, height, chart not in sections["curves"])
                           for chart, height in zip(shown, heights)), cls="pair")
    main = tag("div", main_table(data, comparisons, has_curves), tag("p", main_caption(data, comparisons), cls="note"))
    warning = warning_text(data, comparisons, answered=bool(comparisons) or not fits)
    return shown, [
        tag("p", f"study {study.name}", cls="study"), tag("h1", study.question),
        tag("div", tag("div", tag("h3", "The paper"), tag("p", paper), cls="card"),
            tag("div", tag("h3", "This study"), tag("p", answer_text(data, comparisons, fits)),
                tag("p", scope_text(data, comparisons), cls="small"), cls="card ours"), cls="answers"),
        tag("p", warning, cls="warning") if warning else "",
        tag("div", main, pictures, cls=f"top {'wide' if wide else ''}".strip())]


def runs_legend(data, charts):
    baseline = data.baseline.index if data.baseline else None
    shown = {line.color for chart in charts for line in chart.lines}
    return html.legend([(run.label, run.index) for run in data.rows if run.index in shown], baseline)


def chart_section(data, title, charts):
    if not charts:
        return ""
    return Markup(tag("h2", title) + runs_legend(data, charts)
                  + tag("div", *(html.figure(chart, *GRID) for chart in charts), cls="grid-of"))


def fit_section(fits, shown):
    if not fits:
        return ""
    parts = [tag("h2", "Fits")]
    for fit in fits:
        words = [tag("h3", fit.title), tag("p", upper_first(fit.sentence))]
        words += [html.table(fit.header, fit.rows)] if fit.rows else []
        words += [tag("p", note, cls="note") for note in fit.notes]
        picture = [html.figure(fit.chart, *FIT, has_legend=True)] if fit.chart and fit.chart not in shown else []
        parts.append(tag("div", *picture, tag("div", *words), cls="fit" if picture else ""))
    return Markup("".join(parts))


def method_section(data, comparisons):
    several = max(len(run.seeds) for run in data.runs) > 1
    compared = bool(comparisons)
    items = [
        compared and "Differences are paired by seed: of each seed that both runs have, candidate minus baseline.",
        f"95 % intervals: Student's t below {BOOTSTRAP_FROM} seeds, a studentised bootstrap from there, none of one seed. "
        "Bold: the interval excludes 0." if several else "One seed: no intervals.",
        "Each interval is of one comparison: of twenty differences that are nothing, one is expected to look like something, "
        "and the lowest of several variants is lower than it would be again."
        if several and len(comparisons) > 1 else "",
        compared and f"Counts of tokens that differ by less than {EQUAL_TOKENS:.1%} are equal. Where two runs end at others, "
        "they are compared where the shorter one ends (training loss) or at the last evaluation that both have.",
        f"Training losses and router figures are means of the last {data.smooth_steps} steps; held-out losses are of the "
        "last evaluation.",
        compared and f"Tokens to equal training loss: where the moving mean of {data.smooth_steps} steps falls to the other's "
        "last one, linear in log tokens between points; of held-out loss, linear in log tokens between evaluations. Where noise makes "
        "a curve cross several times, the length that it spends above counts. Ratios are geometric means over seeds. A "
        "schedule that decays to the end makes these ratios small: before its end no run has the loss of a run that ends there.",
        "FLOPs count causal attention, forward and backward; those of a parent up to the fork are included, as its tokens are.",
        step_time_text(data)]
    return Markup(tag("h2", "How it was computed") + html.bullets(item for item in items if item))


def step_time_text(data):
    measured = [run for run in data.runs if run.step_time]
    if not measured:
        return "Step times were not measured (olmoe-study time does): there is no curve against time."
    rounds = max(len(run.rounds) for run in measured)
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
        tag("h2", "Runs"), *(run_details(data, run) for run in data.rows), method_section(data, comparisons),
        tag("p", "Beside this page: ", tag("a", "results.csv", href="results.csv"), " and a PNG of each curve and fit.",
            cls="note"))


def make_csv(data):
    """A line for each run and seed, numbers to six digits; a value that is missing is empty."""
    keys = compared_keys(data)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "label", "seed", "parameters_total", "parameters_active", "steps", "tokens", "flops", "step_time_s",
                     "diverged_at_step", *keys, "overrides", "config_hash", "version"])
    for run in data.rows:
        for seed, one in (run.seeds | run.diverged).items():
            result = one.result
            values = [data.final(one, key) if seed in run.seeds else None for key in keys]
            writer.writerow([
                run.name, run.label, seed, result["parameters"]["total"], result["parameters"]["active"], result["steps"],
                one.tokens, f"{float(one.flops_at(one.tokens)):.6g}", f"{run.step_time:.6g}" if run.step_time else "",
                result.get("diverged", ""), *("" if value is None else f"{value:.6g}" for value in values),
                " ".join(f"{key}={text_of(value)}" for key, value in result["overrides"].items()),
                result["config_hash"], result["version"]])
    return buffer.getvalue()

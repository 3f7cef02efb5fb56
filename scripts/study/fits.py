"""The fits that a study names, made of its finished runs: each with a sentence, a chart and a table."""
import fnmatch
import os
import re
from dataclasses import dataclass, field, replace

import numpy as np

from study.charts import Chart, Line
from study.critical_batch import fit_critical_batch
from study.curves import tokens_to_reach
from study.fit_keys import complete_fit
from study.formats import INTERVAL, MINUS, between, count, names, number, plural, short, upper_first
from study.power_laws import fit_isoflop, fit_power_law, group_by_budget
from study.statistics import ReportError
from study.study_data import LOSS, diverged_text, name_of
from study.u_curves import Point, u_curves


@dataclass(frozen=True)
class FitResult:
    title: str
    sentence: str  # the result with its interval, or why there is none
    chart: Chart | None
    header: tuple = ()
    rows: list = field(default_factory=list)
    notes: tuple = ()  # what was left out and how the fit was made


def interval_text(estimate, write=short):
    """"0.0021 (95 % interval 0.0017 to 0.0026)" """
    if not estimate.has_interval:
        return f"{write(estimate.value)} ({estimate.method})"
    return f"{write(estimate.value)} ({INTERVAL} {between(estimate, write)})"


def is_chosen(run, patterns):
    return any(fnmatch.fnmatchcase(run.name, pattern) for pattern in patterns)


def chosen(data, patterns):
    runs = [run for run in data.runs if is_chosen(run, patterns)]
    if not runs:
        raise ReportError(f"report.fits: runs: no finished run is called like {', '.join(patterns)}")
    return runs


def diverged_note(data, patterns):
    return left_out_note([diverged_text([run]) for run in data.rows if run.diverged and is_chosen(run, patterns)], "diverged")


def losses_of(data, run, metric):
    """[(seed, final value)] of the seeds that have it."""
    return [(seed, value) for seed, value in data.finals(run, metric).items() if value is not None]


def left_out_note(labels, why):
    return (f"left out, {why}: {', '.join(labels)}",) if labels else ()


def value_of(run, key):
    """A number of a run's config, or None."""
    result = run.first
    value = result["overrides"].get(key, result.get("config", {}).get(key))
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def group_label(runs, key):
    """What the labels of runs have in common without the key's own part."""
    own = re.compile(rf"\s*(?:{re.escape(key)}|{re.escape(key.rpartition('.')[2])})[ =]")
    labels = {",".join(part for part in run.label.split(",") if not own.match(part)) for run in runs}
    return os.path.commonprefix(sorted(labels)).strip(" ,-=") or "all runs"


def groups_without(runs, key):
    """Runs whose overrides but for the key are equal, by label of the group."""
    groups = {}
    for run in runs:
        others = repr(sorted((name, repr(value)) for name, value in run.run.overrides.items() if name != key))
        groups.setdefault(others, []).append(run)
    out = {}
    for group in groups.values():
        label = group_label(group, key)
        out[label if label not in out else f"{label} ({group[0].name})"] = group
    return out


def scattered(label, color, x, y):
    return Line(label, color, np.asarray(x, float), np.asarray(y, float), points=True, joined=False)


def diverged_clause(values):
    return f", diverged at {names(map(short, values))}" if values else ""


def u_parts(groups, curves, write, diverged_at=None):
    """(lines, rows, clauses) of {label: [Point]} and their fits. `diverged_at`: {label: [x]}."""
    lines, rows, clauses = [], [], []
    for color, (label, points) in enumerate(groups.items(), 1):
        curve, ordered = curves[label], sorted(points, key=lambda point: point.x)
        diverged = diverged_clause((diverged_at or {}).get(label))
        x = np.array([point.x for point in ordered])
        lines.append(scattered(label, color, x, [point.loss for point in ordered]))
        if curve.refused:
            rows.append((label, "none", curve.refused + diverged, "", ""))
            clauses.append(f"{label}: no optimum, {curve.refused}{diverged}")
            continue
        at = np.geomspace(x[0], x[-1], 60)
        lines.append(Line(f"{label}: fit", color, at, curve.loss(at), dashed=True))
        bounds = between(curve.optimum, write) if curve.optimum.has_interval else curve.optimum.method
        leaves = curve.optimum.has_interval and not x[0] <= curve.optimum.low <= curve.optimum.high <= x[-1]
        outside = ", beyond the values that were run" if leaves else ""
        rows.append((label, write(curve.optimum.value), bounds + outside, number(curve.lowest), number(curve.largest_residual)))
        clauses.append(f"{label}: {interval_text(curve.optimum, write)}{outside}{diverged}")
    return lines, rows, clauses


U_HEADER = ("", "optimum", "95 % interval", "fitted loss there", "largest residual")


def lr_u_curve(data, fit):
    key, metric = fit["key"], fit["metric"]
    chosen(data, fit["runs"])
    rows_of = [run for run in data.rows if is_chosen(run, fit["runs"])]
    without = [run.label for run in rows_of if value_of(run, key) is None]
    grouped = groups_without([run for run in rows_of if value_of(run, key) is not None], key)
    diverged = {label: sorted({value_of(run, key) for run in group if run.diverged}) for label, group in grouped.items()}
    groups = {label: [Point(value_of(run, key), seed, loss) for run in group for seed, loss in losses_of(data, run, metric)]
              for label, group in grouped.items()}
    groups = {label: points for label, points in groups.items() if points}
    curves = u_curves(groups, fit["curvature"] == "shared", diverged)
    lines, rows, clauses = u_parts(groups, curves, short, diverged)
    clauses += [f"{label}: no optimum{diverged_clause(values)}" for label, values in diverged.items() if label not in groups]
    name = key.rpartition(".")[2]
    chart = Chart(f"fit_{name}", f"{upper_first(name_of(metric))} against {name}", key, f"{name_of(metric)}, nats", lines,
                  "points: runs; dashed: fit", x_log=True, x_kind="number",
                  x_values=tuple(sorted({point.x for points in groups.values() for point in points}))) if lines else None
    method = f"quadratic in log {name} by least squares" + (
        ", one curvature for all" if fit["curvature"] == "shared" and len(groups) > 1 else "")
    return FitResult(f"Best {name}", f"best {name}, {'; '.join(clauses)}.", chart, U_HEADER, rows,
                     (method, *left_out_note(without, f"{key} is no number"), *diverged_note(data, fit["runs"])))


def x_of(run, seed, kind):
    result = run.seeds[seed].result
    if kind in ("active", "total"):
        return float(result["parameters"][kind])
    one = run.seeds[seed]
    return float(one.tokens if kind == "tokens" else one.flops_at(one.tokens))


X_NAMES = {"flops": "training FLOPs", "tokens": "tokens", "active": "active parameters", "total": "parameters"}


def power_law(data, fit):
    x_name, metric = X_NAMES[fit["x"]], fit["metric"]
    pairs = [(x_of(run, seed, fit["x"]), loss) for run in chosen(data, fit["runs"])
             for seed, loss in losses_of(data, run, metric)]
    x, losses = (np.array(column, float) for column in zip(*sorted(pairs))) if pairs else (np.array([]), np.array([]))
    law = fit_power_law(x, losses, fit["irreducible"])
    title = f"Power law in {x_name}"
    lines = [scattered("runs", 1, x, losses)] if len(x) else []
    if law.refused:
        rows = []
        text = f"no power law of {name_of(metric)} in {x_name}: {law.refused}."
    else:
        at = np.geomspace(x.min(), 10 * x.max(), 80)
        mean, half = law.predict(at)
        band = (mean - half, mean + half) if half is not None else (None, None)
        lines.append(Line("fit", 2, at, mean, *band, dashed=True))
        rows = [(name, interval_text(one, write)) for name, one, write in (
            ("E, nats", law.irreducible, number), ("A", law.factor, short), ("a", law.exponent, short))]
        floor = f" and E = {interval_text(law.irreducible, number)}" if law.irreducible.has_interval else ""
        text = f"{name_of(metric)} falls as E + A x^-a of {x_name} with a = {interval_text(law.exponent)}{floor}."
        ahead, width = law.predict(10 * x.max())
        rows.append((f"predicted at {short(10 * x.max())}",
                     number(float(ahead)) + (f" ± {number(float(width))}" if width is not None else " (no interval)")))
    chart = Chart(f"fit_power_law_{fit['x']}", title, x_name, f"{name_of(metric)}, nats", lines,
                  "dashed: fit up to ten times the range" + (", band: 95 % interval of the mean" if law.freedom else ""),
                  x_log=True,
                  x_kind="number") if lines else None
    return FitResult(title, text, chart, ("coefficient", "value"), rows,
                     (f"least squares of L = E + A x^-a over {plural(len(x), 'run')} at {plural(len(set(x)), 'value')} of x; "
                      "intervals of A and a of their logarithms; they take the law as exact, and what seeds share as noise",
                      *diverged_note(data, fit["runs"])))


def isoflop(data, fit):
    metric, size = fit["metric"], X_NAMES[fit["size"]]
    found = [(x_of(run, seed, "flops"), Point(x_of(run, seed, fit["size"]), seed, loss))
             for run in chosen(data, fit["runs"]) for seed, loss in losses_of(data, run, metric)]
    groups = group_by_budget([flops for flops, _ in found], fit["tolerance"])
    groups = {flops: [found[index][1] for index in indices] for flops, indices in groups.items()}
    iso = fit_isoflop(groups)
    named = {f"{short(flops)} FLOPs": groups[flops] for flops in sorted(groups)}
    curves = {f"{short(flops)} FLOPs": curve for flops, curve in iso.budgets.items()}
    lines, rows, _ = u_parts(named, curves, count)
    if iso.refused:
        text = f"no law of the best size: {iso.refused}."
    else:
        text = f"the best number of {size} grows as FLOPs^b with b = {interval_text(iso.exponent)}."
        rows.append(("b", short(iso.exponent.value), between(iso.exponent, short) if iso.exponent.has_interval
                     else iso.exponent.method, "", ""))
    chart = Chart("fit_isoflop", "Loss against size at equal FLOPs", size, f"{name_of(metric)}, nats", lines,
                  "points: runs; dashed: parabolas", x_log=True) if lines else None
    return FitResult("Best size at equal FLOPs", text, chart, U_HEADER, rows,
                     ("a parabola in log size for each budget; least squares of log size on log FLOPs over their minima",
                      *diverged_note(data, fit["runs"])))


def critical_batch(data, fit):
    runs = chosen(data, fit["runs"])
    curves = {(run, seed): curve for run in runs for seed, curve in data.loss_curves(run).items() if curve}
    if not curves:
        raise ReportError("report.fits: critical_batch: no run has a training loss")
    target = fit["loss"] if fit["loss"] is not None else max(curve.final for curve in curves.values())
    points, without = [], []
    for (run, seed), curve in curves.items():
        crossing, one = tokens_to_reach(curve, target), run.seeds[seed]
        if crossing.status != "reached":
            without.append(f"{run.label} seed {seed} ({crossing.status})")
            continue
        steps = float(one.own_steps_at(crossing.tokens))
        points.append(((crossing.tokens - one.parent_tokens) / steps, steps))
    notes = (*left_out_note(without, "the loss is not crossed"), *diverged_note(data, fit["runs"]))
    return critical_batch_result(points, target, notes)


def critical_batch_result(points, target, notes):
    batches, steps = (np.array(column, float) for column in zip(*sorted(points))) if points else (np.array([]),) * 2
    batches = np.array([float(f"{batch:.4g}") for batch in batches])  # equal ones differ by rounding
    found = fit_critical_batch(batches, steps)
    lines = [scattered("runs", 1, batches, steps)] if len(points) else []
    if found.refused:
        text, rows = f"no critical batch size at a loss of {number(target, 3)}: {found.refused}.", []
    else:
        at = np.geomspace(batches.min(), batches.max(), 60)
        lines.append(Line("fit", 2, at, found.steps_at(at), dashed=True))
        text = f"critical batch size in tokens at a training loss of {number(target, 3)}: {interval_text(found.batch, count)}."
        rows = [("critical batch, tokens", interval_text(found.batch, count)),
                ("least steps", interval_text(found.steps)), ("least tokens", interval_text(found.tokens, count))]
    chart = Chart("fit_critical_batch", f"Steps to a training loss of {number(target, 3)}", "batch size, tokens", "steps",
                  lines, "dashed: fit", x_log=True, y_log=True, decimals=0) if lines else None
    return FitResult("Critical batch size", text, chart, ("", "value"), rows,
                     (f"(S/S_min {MINUS} 1)(E/E_min {MINUS} 1) = 1 of steps S and tokens E; least squares of log S; each batch "
                      "at the learning rate of its run",
                      *notes))


KINDS = {"lr_u_curve": lr_u_curve, "power_law": power_law, "isoflop": isoflop, "critical_batch": critical_batch}


def make_fits(data):
    """FitResults in the order of the study. Names of charts are unique."""
    out = []
    for index, fit in enumerate(data.study.report.get("fits") or []):
        try:
            complete = complete_fit(fit)
        except ValueError as error:
            raise ReportError(str(error)) from None
        if complete.get("metric", LOSS) not in data.known_keys:
            raise ReportError(f"report.fits: no result has the metric {complete['metric']}; there are "
                              f"{', '.join(sorted(data.known_keys))}")
        result = KINDS[complete["kind"]](data, complete)
        if result.chart and any(other.chart and other.chart.name == result.chart.name for other in out):
            result = replace(result, chart=replace(result.chart, name=f"{result.chart.name}_{index + 1}"))
        out.append(result)
    return out

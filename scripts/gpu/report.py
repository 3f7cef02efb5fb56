#!/usr/bin/env python3
"""What scripts/gpu/check.py says of its parts: figures out of their logs and metrics, and the two reports.

    scripts/gpu/report.py compare RUN OTHER --steps N --tolerance X     losses of two runs; returns 1 where they differ
"""
import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import predictions
import profiled_kernels
import tables

LOG_LINES = 12
PROFILED_STEPS = 3


def steps(run):
    """The lines of a run's metrics.jsonl that are of a step."""
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


# Figures of a part, from its log and the run folder of its name.

def last_lines(log, _):
    return {"says": log.read_text(errors="replace").splitlines()[-LOG_LINES:]}


def tests_of(log, _):
    """Cases and assertions of Catch2's programs, and their last lines."""
    text = log.read_text(errors="replace")
    totals = re.findall(r"^(All tests passed .*|test cases: .*|assertions: .*)$", text, re.MULTILINE)
    failed = sorted(set(re.findall(r"^(GPU: .*|NCCL: .*)$", text, re.MULTILINE)))
    return {"totals": totals} | ({"failed": failed} if failed else {}) | last_lines(log, None)


def steps_of(log, run):
    """Time of a step, without the first quarter, which makes memory and picks algorithms; FLOPs a token, memory."""
    lines = steps(run)
    said = re.search(r"FLOPs per token: ([\d.e+-]+) G with causal attention, ([\d.e+-]+) G with full", log.read_text())
    peaks = [line["peak_memory_bytes"] for line in lines if "peak_memory_bytes" in line]
    late = lines[len(lines) // 4:]
    tokens = lines[0]["tokens"]
    rates = [line["tokens_per_s"] for line in late]
    config = (run / "config.yaml").read_text()
    median = statistics.median(rates)
    counted = [line["host_syncs"] for line in late if "host_syncs" in line]
    syncs = {"most_host_syncs_of_a_step": max(counted)} if counted else {}
    return syncs | {"layers": int(re.search(r"^ *num_layers: (\d+)", config, re.MULTILINE)[1]), "steps": len(lines),
            "tokens_per_step": tokens, "median_tokens_per_s": median, "median_step_ms": 1e3 * tokens / median,
            "fastest_step_ms": 1e3 * tokens / max(rates), "slowest_step_ms": 1e3 * tokens / min(rates),
            "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"]} | \
        ({"flops_per_token": [float(figure) * 1e9 for figure in said.groups()]} if said else {}) | \
        ({"peak_memory_bytes": max(peaks)} if peaks else {})


def ran_out_of_memory(log):
    return log.exists() and "out of memory" in log.read_text(errors="replace")


def whole_entries(text):
    """The benchmarks of Google Benchmark's JSON, also of a file that its program did not come to end."""
    try:
        return json.loads(text)["benchmarks"]
    except json.JSONDecodeError:
        begin, end = text.find('"benchmarks": ['), text.rfind("    }")
        if begin < 0 or end < begin:
            raise
        return json.loads("{" + text[begin:end] + "    }]}")["benchmarks"]


def benchmarks_of(_, folder):
    found = whole_entries(folder.with_suffix(".json").read_text())
    kept = ("real_time", "time_unit", "FLOP/s", "B/s", "busiest", "error_message")
    return {entry["name"]: {key: entry[key] for key in kept if key in entry} for entry in found}


def predictions_of(log, _):
    lines = [line for line in log.read_text().splitlines() if line.startswith(("predicted", "planned"))]
    peak = re.search(r"\(([\d.]+) TFLOP/s dense bf16", "\n".join(lines))
    if not peak:
        raise ValueError("the dry run predicted nothing")
    return {"says": lines, "peak_tflop_per_s": float(peak[1])}


def measured_in(_, folder):
    """What a part wrote into the JSON file of its name."""
    return json.loads(folder.with_suffix(".json").read_text())


def profile_of(_, folder):
    return profiled_kernels.summary(folder.with_suffix(".csv").read_text(errors="replace"), PROFILED_STEPS)


def counters_of(_, folder):
    return {"rows": profiled_kernels.counters(folder.with_suffix(".csv").read_text(errors="replace"))}


def outcome(result):
    if result["status"] == "not run":
        return f"NOT RUN: {result['reason']}"
    reason = f": {result['reason']}" if "reason" in result else ""
    if "rc" not in result:
        return result["status"] + reason
    return f"{result['status']} (rc {result['rc']}) in {result['seconds']:.1f} of {result['limit_s']} s{reason}"


def is_go(results, rehearse):
    """Every part that is needed passed; a rehearsal does not mind what could not run. Layers that do not fit are a
    finding, if fewer do."""
    good = {"passed", "not run"} if rehearse else {"passed"}
    fits = any(result["status"] == "passed" for result in results if result.get("may_not_fit"))
    good |= {"out of memory"} if fits else set()
    return all(result["status"] in good for result in results if result["needed"])


def verdict(results, rehearse, go):
    without = [result["name"] for result in results if not result["needed"] and result["status"] != "passed"]
    if not go:
        return "NO GO"
    if rehearse:
        return "all parts that could run passed"
    return "go" + (f", without {', '.join(without)}" if without else "")


def text(figure):
    if isinstance(figure, dict):
        return ", ".join(f"{key} {text(value)}" for key, value in figure.items())
    if isinstance(figure, list):
        return " | ".join(map(text, figure))
    return f"{figure:.6g}" if isinstance(figure, float) else str(figure)


def part_markdown(result):
    """The command of a part, what it said, and its figures; rows and kernels each on a line."""
    figures = dict(result["figures"])
    lines = ["", f"## {result['name']}", "", f"    {result['command']}", ""]
    lines += [f"    | {line}".rstrip() for line in figures.pop("says", [])]
    figures.pop("predicted", None)  # report.json has it, and a table what was measured of it
    for name in ("rows", "kernels"):
        lines += [f"    | {text(row)}" for row in figures.pop(name, [])]
    if result.get("gpu"):
        figures["gpu"] = result["gpu"]
    return lines + [""] * bool(figures) + [f"* {key}: {text(value)}" for key, value in figures.items()]


def markdown(results, report):
    rehearse = report["rehearsal"]
    lines = ["# Rehearsal without a GPU" if rehearse else "# Check on a GPU", "",
             "No figure of this page is of a GPU." if rehearse else "", f"Result: {report['verdict']}", "",
             "| part | outcome |", "| --- | --- |"]
    lines += [f"| {result['name']} | {outcome(result)} |" for result in results]
    lines += tables.layer_markdown(report["layer"]) + tables.step_markdown(report["steps"])
    lines += tables.ablation_markdown(report["ablations"])
    lines += tables.prediction_markdown(report["predictions"])
    for result in results:
        if "figures" in result:
            lines += part_markdown(result)
    return "\n".join(lines) + "\n"


def replace(path, text):
    """Whoever reads the file finds all of the old text or all of the new."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


def attempt(make, *arguments):
    """(what it made, "") or (None, why it could not): figures that nobody foresaw must not take the report with them."""
    try:
        return make(*arguments), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def all_tables(results, rehearse):
    made = {"layer": attempt(tables.layer_table, results), "steps": attempt(tables.step_table, results),
            "ablations": attempt(tables.ablation_table, results),
            # A rehearsal's figures are of a CPU, and of smaller models.
            "predictions": attempt(predictions.table, [] if rehearse else results)}
    return {name: table or {"cannot": why_not} for name, (table, why_not) in made.items()}


def write(out, results, rehearse, unfinished=""):
    """Writes report.json and report.md; returns whether all is well. `unfinished`: why this is not the whole check."""
    made = all_tables(results, rehearse)
    go = not unfinished and is_go(results, rehearse) and not any("cannot" in table for table in made.values())
    says = f"NO GO, not the whole check: {unfinished}" if unfinished else verdict(results, rehearse, go)
    report = {"rehearsal": rehearse, "go": go, "verdict": says,
              "seconds": round(sum(result.get("seconds", 0) for result in results), 1), **made, "parts": results}
    replace(out / "report.json", json.dumps(report, indent=1) + "\n")
    page, why_not = attempt(markdown, results, report)
    replace(out / "report.md", page or f"Result: {says}\n\nThe rest is in report.json alone: {why_not}\n")
    return go and not why_not


def compare(run, other, count, tolerance):
    """Says how far the losses of two runs are apart, relative; true where no step is beyond the tolerance."""
    pairs = list(zip(steps(run), steps(other)))
    if len(pairs) != count:
        print(f"{len(pairs)} steps, not {count}")
        return False
    gaps = [abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in pairs]
    worst = max(gaps, key=lambda gap: (gap != gap, gap))  # NaN is the worst
    print(f"largest relative difference of {count} losses: {worst:.2e}, {tolerance:.0e} is allowed; "
          f"the last: {pairs[-1][0]['loss']:.6f} and {pairs[-1][1]['loss']:.6f}")
    return all(gap <= tolerance for gap in gaps)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("compare")
    command.add_argument("runs", nargs=2, type=Path)
    command.add_argument("--steps", type=int, required=True)
    command.add_argument("--tolerance", type=float, required=True)
    arguments = parser.parse_args()
    return 0 if compare(*arguments.runs, arguments.steps, arguments.tolerance) else 1


if __name__ == "__main__":
    sys.exit(main())

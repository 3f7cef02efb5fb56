#!/usr/bin/env python3
"""What scripts/gpu_check.py says of its parts: figures out of their logs and metrics, and the two reports.

    scripts/gpu_report.py compare RUN OTHER --steps N --tolerance X     losses of two runs; returns 1 where they differ
"""
import argparse
import json
import re
import statistics
import sys
from pathlib import Path

PUBLISHED_LAYERS = 16
LOG_LINES = 12


def steps(run):
    """The lines of a run's metrics.jsonl that are of a step."""
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


# Figures of a part, from its log and the run folder of its name.

def last_lines(log, _):
    return {"says": log.read_text(errors="replace").splitlines()[-LOG_LINES:]}


def steps_of(log, run):
    """Time of a step, without the first quarter, which makes memory and picks algorithms."""
    lines = steps(run)
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
            "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"]}


def benchmarks_of(_, folder):
    found = json.loads(folder.with_name("kernels_bench.json").read_text())["benchmarks"]
    kept = ("real_time", "time_unit", "FLOP/s", "B/s")
    return {entry["name"]: {key: entry[key] for key in kept if key in entry} for entry in found}


def predictions_of(log, _):
    lines = [line for line in log.read_text().splitlines() if line.startswith(("predicted", "planned"))]
    if not lines:
        raise ValueError("the dry run predicted nothing")
    return {"says": lines}


def full_model(results):
    """What two runs with fewer layers say of a model of 16: computed, not measured. {} where there are not two."""
    runs = sorted((result["figures"] for result in results
                   if re.fullmatch(r"olmoe_\d+_layers", result["name"]) and result["status"] == "passed"),
                  key=lambda figures: figures["layers"])
    if len(runs) < 2 or runs[0]["layers"] == runs[-1]["layers"]:
        return {}
    few, many = runs[0], runs[-1]
    layer_ms = (many["median_step_ms"] - few["median_step_ms"]) / (many["layers"] - few["layers"])
    step_ms = many["median_step_ms"] + (PUBLISHED_LAYERS - many["layers"]) * layer_ms
    return {"layer_ms": layer_ms, "step_ms": step_ms, "tokens_per_s": 1e3 * many["tokens_per_step"] / step_ms}


def outcome(result):
    if result["status"] == "not run":
        return f"NOT RUN: {result['reason']}"
    reason = f": {result['reason']}" if "reason" in result else ""
    return f"{result['status']} (rc {result['rc']}) in {result['seconds']:.1f} of {result['limit_s']} s{reason}"


def is_go(results, rehearse):
    """Every part passed; a rehearsal does not mind what could not run."""
    good = {"passed", "not run"} if rehearse else {"passed"}
    return all(result["status"] in good for result in results)


def text(figure):
    if isinstance(figure, dict):
        return ", ".join(f"{key} {text(value)}" for key, value in figure.items())
    return f"{figure:.6g}" if isinstance(figure, float) else str(figure)


def markdown(results, rehearse, go, computed):
    lines = ["# Rehearsal without a GPU" if rehearse else "# Check on a GPU", "",
             "No figure of this page is of a GPU." if rehearse else "", "| part | outcome |", "| --- | --- |"]
    lines += [f"| {result['name']} | {outcome(result)} |" for result in results]
    lines += ["", "Result: " + ("all parts that could run passed" if go and rehearse else "go" if go else "NO GO")]
    if computed:
        lines += ["", f"Computed for {PUBLISHED_LAYERS} layers from the two runs with fewer, not measured: a layer "
                  f"{computed['layer_ms']:.2f} ms, a step {computed['step_ms']:.1f} ms, "
                  f"{computed['tokens_per_s']:.0f} tokens/s."]
    for result in results:
        if "figures" not in result:
            continue
        figures = dict(result["figures"])
        lines += ["", f"## {result['name']}", "", f"    {result['command']}", ""]
        lines += [f"    | {line}".rstrip() for line in figures.pop("says", [])]
        lines += [f"* {key}: {text(value)}" for key, value in figures.items()]
    return "\n".join(lines) + "\n"


def write(out, results, rehearse):
    """Writes report.json and report.md; returns whether all is well."""
    go, computed = is_go(results, rehearse), full_model(results)
    seconds = round(sum(result.get("seconds", 0) for result in results), 1)
    report = {"rehearsal": rehearse, "go": go, "seconds": seconds,
              f"computed_for_{PUBLISHED_LAYERS}_layers": computed, "parts": results}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.md").write_text(markdown(results, rehearse, go, computed))
    return go


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

"""Result files: what is kept of a finished run, small enough to be committed."""
import json
import math
from pathlib import Path

from study.files import json_lines, read_json, write_whole
from study.identity import differences
from study.yaml_reader import StudyError

FORMAT = 1
MOST_BINS = 200
SERIES = ("loss", "load_balancing_loss", "router_z_loss", "output_z_loss", "max_expert_load", "expert_load_variation",
          "dead_experts", "router_entropy", "dropped_assignments", "grad_norm", "lr")


class Incomplete(Exception):
    """A run has not ended well yet; the message says how far it is."""


def result_path(study, name, seed):
    return study.results / "runs" / f"{name}-seed_{seed}.json"


def rounded(value):
    """To six significant digits; whole numbers stay whole."""
    return value if isinstance(value, int) or not math.isfinite(value) else float(f"{value:.6g}")


def bin_steps_of(steps):
    """The smallest of 1, 2, 5, 10, ... steps of which at most MOST_BINS are in a run."""
    sizes = (digit * 10 ** power for power in range(18) for digit in (1, 2, 5))
    return next(size for size in sizes if math.ceil(steps / size) <= MOST_BINS)


def read_metrics(folder):
    """Lines of metrics.jsonl. A torn last line, as a kill leaves it, is left out."""
    try:
        text = Path(folder, "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise StudyError(f"{folder}/metrics.jsonl:{number}: {error}") from None
    return lines


def last_step(folder):
    """The last step that a run has written metrics of; 0 before its first."""
    return next((line["step"] for line in reversed(read_metrics(folder)) if "loss" in line), 0)


def lines_of(plan, folder):
    """(lines of steps, lines of evaluations, last step), as far as a run is. Raises StudyError where lines are missing."""
    lines = read_metrics(folder)
    steps = [line for line in lines if "loss" in line]
    last = steps[-1]["step"] if steps else plan.first_step
    if [line["step"] for line in steps] != list(range(plan.first_step + 1, last + 1)):
        raise StudyError(f"{folder}/metrics.jsonl: not every step from {plan.first_step + 1} to {last} once, in order; "
                         "move the folder away to run it anew")
    if steps and steps[-1]["tokens"] != plan.own_tokens(last):
        raise StudyError(f"{folder}/metrics.jsonl: {steps[-1]['tokens']} tokens at step {last}, where the config gives "
                         f"{plan.own_tokens(last)}; move the folder away to run it anew")
    return steps, [line for line in lines if any(key.startswith("eval/") for key in line)], last


def steps_and_evaluations(plan, folder):
    """The lines of a run that is complete. Raises Incomplete where it is not, StudyError where lines are missing."""
    steps, evaluations, last = lines_of(plan, folder)
    if last < plan.steps:
        raise Incomplete(f"step {last} of {plan.steps}")
    if (plan.config["evaluation.paths"] or plan.config["evaluation.sets"]) and (
            not evaluations or evaluations[-1]["step"] < plan.steps):
        raise Incomplete("its last evaluation is missing")
    return steps, evaluations


def is_complete(plan, folder):
    try:
        steps_and_evaluations(plan, folder)
    except Incomplete:
        return False
    return True


def series_of(steps, offset):
    """Means over bins; of step and tokens the last. `offset` is added to tokens."""
    size = bin_steps_of(len(steps))
    bins = [steps[begin:begin + size] for begin in range(0, len(steps), size)]
    out = {"bin_steps": size, "step": [one[-1]["step"] for one in bins],
           "tokens": [one[-1]["tokens"] + offset for one in bins]}
    for key in SERIES:
        if steps and key in steps[0]:
            out[key] = [rounded(sum(line[key] for line in one) / len(one)) for one in bins]
    return out


def make_result(study, plan, seed, folder, version):
    """The result of a complete run, as it is written."""
    steps, evaluations = steps_and_evaluations(plan, folder)
    return result_of(study, plan, seed, version, steps, evaluations)


def make_diverged_result(study, plan, seed, folder, version):
    """Of a run that ended because a number was not finite: all that it has up to there."""
    steps, evaluations, last = lines_of(plan, folder)
    result = result_of(study, plan, seed, version, steps, evaluations)
    return {"format": FORMAT, "diverged": min(last + 1, plan.steps)} | result


def result_of(study, plan, seed, version, steps, evaluations):
    last = steps[-1]["step"] if steps else plan.first_step
    totals, fork = plan.totals(last), plan.fork()
    offset = totals.tokens - plan.own_tokens(last)
    tokens_at = {line["step"]: line["tokens"] + offset for line in steps}
    parent = plan.describe_parent()
    return {
        "format": FORMAT, "study": study.name, "run": plan.run.name, "label": plan.run.label, "seed": seed,
        "config_hash": plan.config_hash, "overrides": plan.run.overrides, "version": version, "config": plan.identity,
        "data": plan.data, "parameters": plan.parameters, "flops_per_token": plan.flops_per_token,
        "steps": last - plan.first_step,
        "tokens": totals.tokens, "flops": totals.flops,
        "sequences_per_step": plan.config["train.global_batch_size"],
        "parent": parent and parent | {"seed": seed, "tokens": fork.tokens, "flops": fork.flops},
        "series": series_of(steps, offset),
        # The evaluation of the step that a run begins after is its parent's.
        "evaluations": [{"step": line["step"], "tokens": tokens_at[line["step"]],
                         "values": {key: rounded(value) for key, value in line.items() if key not in ("step", "tokens")}}
                        for line in evaluations if line["step"] in tokens_at]}


def write_result(study, result):
    write_whole(result_path(study, result["run"], result["seed"]), json_lines(result))


def read_result(study, name, seed):
    """None where there is none."""
    path = result_path(study, name, seed)
    result = read_json(path)
    if result is not None and result.get("format") != FORMAT:
        raise StudyError(f"{path}: format {result.get('format')!r}, where this version reads {FORMAT}")
    return result


def read_results(study):
    """All that are there, in the order of the study's runs and seeds."""
    found = (read_result(study, run.name, seed) for run in study.runs for seed in run.seeds)
    return [result for result in found if result is not None]


def changes_since(result, plan, defaults):
    """What keeps a result, or RunPlan.describe() of another day, from being that of the run as it is planned now, as a
    list of text."""
    out = differences(result["config"], plan.identity, defaults)
    then, now = result["parent"], plan.describe_parent()
    kept = {key: then[key] for key in now if key in then} if then and now else then
    if kept != now:
        keys = [key for key in (now or then) if (then or {}).get(key) != (now or {}).get(key)]
        out.append(f"what it starts from: another {', '.join(keys)}")
    for kind, there in result["data"].items():
        if there and plan.data[kind] and there != plan.data[kind]:
            out.append(f"data: other token files ({kind})")
    return out

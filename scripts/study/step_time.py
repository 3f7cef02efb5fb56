"""Measures the step time of each run alone, run after run, in rounds: what the report multiplies steps by.

The clock of a run that shared its machine is of no use. A measured run is the real one with its first steps alone, without
evaluation and checkpoints, from random weights.
"""
import os
import platform
import shutil
import statistics

from study import launchers
from study.files import json_lines, read_json, write_whole
from study.programs import error_of
from study.results import read_metrics
from study.runner import Item
from study.yaml_reader import StudyError

FORMAT = 1
FIRST_STEPS = 5  # that are left out: memory is touched for the first time
NOT_MEASURED = {"evaluation.paths": [], "evaluation.sets": [], "evaluation.every_steps": 0, "checkpoint.every_steps": 0,
                "checkpoint.cadence": [], "checkpoint.save_last": False, "log.every_steps": 1000000}


def describe_machine():
    model = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        pass
    return f"{len(os.sched_getaffinity(0))} cores, {model or platform.machine()}"


def overrides_of(item, steps):
    plan = item.plan
    decay = plan.config["schedule.decay_steps"] or plan.steps  # a cooldown must stay behind the warm-up
    return plan.run.overrides | NOT_MEASURED | {
        "train.init_from": "", "train.init_optimizer": "reset", "train.init_progress": "restart", "train.steps": steps,
        "schedule.decay_steps": decay, "run.folder": str(item.folder), "run.seed": item.seed}


def measure(item, study, programs, steps):
    """Median seconds of a step. The tokens of a batch-size warm-up's steps differ, and so do their seconds."""
    shutil.rmtree(item.folder, ignore_errors=True)
    command = launchers.command_of(item, study, programs, overrides_of(item, steps))
    item.log.unlink(missing_ok=True)
    process = launchers.Process(command, item.log)
    try:
        code = process.process.wait()
    finally:
        if process.process.poll() is None:
            process.ask_to_leave()
            process.leave()
    if code != 0:
        text = item.log.read_text(errors="replace")
        raise StudyError(f"{item.name}: {launchers.describe_code(code)}: {error_of(text)}; log in {item.log}")
    lines = [line for line in read_metrics(item.folder) if "loss" in line]
    shutil.rmtree(item.folder)
    tokens = [line["tokens"] - before for line, before in zip(lines, [0] + [line["tokens"] for line in lines])]
    return statistics.median(count / line["tokens_per_s"] for count, line in zip(tokens[FIRST_STEPS:], lines[FIRST_STEPS:]))


def time_steps(study, plan, programs, rounds, steps, say):
    """Writes step_time.json after each round. What is there stays, if it is of this machine and of the runs as they are."""
    if study.launch.submit:
        raise StudyError(f"{study.path}: launch.submit: step times are measured by processes of this machine alone")
    if steps <= FIRST_STEPS:
        raise StudyError(f"--steps {steps}: the first {FIRST_STEPS} are left out")
    path, machine = study.results / "step_time.json", describe_machine()
    there = read_json(path)
    now = {name: one.config_hash for name, one in plan.runs.items()}
    kept = [one for one in there["rounds"] if now.get(one["run"]) == one["config_hash"]] if (
        there and there.get("machine") == machine) else []
    for number in range(rounds):
        for run in study.runs:
            item = Item(plan.runs[run.name], run.seeds[0], study.folder / "step_time")
            load = os.getloadavg()[0]
            seconds = measure(item, study, programs, steps)
            kept.append({"run": run.name, "s_per_step": float(f"{seconds:.5g}"), "load_before": round(load, 2),
                         "config_hash": now[run.name]})
            say(f"round {number + 1} of {rounds}: {run.name} {seconds:.4f} s a step (load {load:.2f} before)")
        write_whole(path, json_lines({"format": FORMAT, "machine": machine, "rounds": kept}))

#!/usr/bin/env python3
"""Stands for olmoe-train and olmoe-plan in the tests of studies: as fast as a script can be, and fails when it is asked to.

Its configs are JSON, which is YAML and quicker to read. It has the few keys that the study's code looks at, and `model.width` and `optimizer.lr`. What it learns is a number that
depends on all earlier steps, so that a run which was resumed wrongly shows. $STUDY_CONTROL is a folder with files for it:
`fail_RUN` (how many times still, the exit code, the step), `slow` (seconds of a step), `version` (its own).
"""
import json
import os
import sys
import time
from pathlib import Path

DEFAULTS = {
    "run.folder": None, "run.seed": 6198, "model.width": 8, "optimizer.lr": 0.5, "train.steps": None,
    "train.global_batch_size": 4, "train.batch_size_warmup": [], "train.init_from": "", "train.init_optimizer": "reset",
    "train.init_progress": "restart", "train.recompute": "none", "train.device": "cpu", "train.compute_dtype": "float32", "data.sequence_length": 16, "data.paths": [],
    "data.synthetic": False, "evaluation.paths": [], "evaluation.sets": [], "evaluation.every_steps": 0,
    "checkpoint.cadence": [], "checkpoint.every_steps": 10, "checkpoint.save_last": True, "checkpoint.keep": 0,
    "checkpoint.keep_every_steps": 0, "schedule.decay_steps": 0, "log.every_steps": 10, "parallel.replicate": 1,
    "model.load_balancing_granularity": "micro_batch", "parallel.shard": 0, "parallel.expert": 1, "parallel.zero_stage": 3}
MINIMAL = '{"run": {"folder": "run"}, "train": {"steps": 1}, "data": {"synthetic": true}}'  # what studies ask defaults with
CONTROL = Path(os.environ.get("STUDY_CONTROL", "/nonexistent"))


def refuse(code, text):
    print(f"2026-01-01 00:00:00.000 error {text}", file=sys.stderr)
    sys.exit(code)


def value_of(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_config(arguments):
    paths = [argument for argument in arguments if "=" not in argument and not argument.startswith("--")]
    config = dict(DEFAULTS)
    text = Path(paths[0]).read_text()
    given = {f"{section}.{key}": value for section, keys in json.loads(text if text.startswith("{") else MINIMAL).items()
             for key, value in keys.items()}
    for argument in arguments:
        if "=" in argument and not argument.startswith("--"):
            key, _, value = argument.partition("=")
            given[key] = value_of(value)
    for key, value in given.items():
        if key not in config:
            refuse(2, f"{key}: unknown key")
        config[key] = value
    if config["model.width"] < 1:
        refuse(2, f"model.width: is {config['model.width']}, and must be at least 1")
    return config


def printed(config):
    tree = {}
    for key, value in config.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return json.dumps(tree)


def plan_of(config):
    total = 1000 * config["model.width"]
    layout = {"replicate": 1, "shard": 8, "expert": 1, "zero_stage": 3, "recompute": "none", "step_s": 3.6}
    return [{"gpus": 8, "parameters": {"total": total, "active": total // 2},
             "flops_per_token": {"causal": 3.0 * total, "full_attention": 3.5 * total}, "layouts": [layout]}]


def fails_now(name, step):
    path = CONTROL / f"fail_{name}"
    if not path.exists():
        return
    times, code, at = map(int, path.read_text().split())
    if step == at and times > 0:
        path.write_text(f"{times - 1} {code} {at}")
        refuse(code, f"made up failure at step {step}")


def pause(path):
    """Whole seconds in small parts, so that a test that has seen enough can take the file away."""
    deadline = time.monotonic() + (float(path.read_text()) if path.exists() else 0)
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def newest(folder):
    return max(folder.glob("checkpoints/step_*/state.json"), default=None)


def start_of(config, folder):
    """State, last step and tokens that a run begins after."""
    saved = newest(folder)
    if saved is not None:
        return json.loads(saved.read_text())
    if not config["train.init_from"]:
        return {"value": float(config["run.seed"] % 97), "step": 0, "tokens": 0}
    source = json.loads(Path(config["train.init_from"], "state.json").read_text())
    return source if config["train.init_progress"] == "continue" else source | {"step": 0, "tokens": 0}


def tokens_of(config, step):
    phase = next((one for one in config["train.batch_size_warmup"] if step <= one["until_step"]), None)
    return (phase["global_batch_size"] if phase else config["train.global_batch_size"]) * config["data.sequence_length"]


def train(config):
    folder = Path(config["run.folder"])
    folder.mkdir(parents=True, exist_ok=True)
    state = start_of(config, folder)
    version = (CONTROL / "version").read_text() if (CONTROL / "version").exists() else "9.9 (test)"
    print(f"2026-01-01 00:00:00.000 info olmoe-train {version}\ndevice: none\n2026-01-01 00:00:00.001 info "
          f"{'resuming from' if newest(folder) else 'new run in'} {folder}", flush=True)
    metrics = folder / "metrics.jsonl"
    kept = [line for line in metrics.read_text().splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= state["step"]] if metrics.exists() else []
    metrics.write_text("".join(kept))
    with open(metrics, "a") as out:
        for step in range(state["step"] + 1, config["train.steps"] + 1):
            fails_now(folder.parent.name, step)
            pause(CONTROL / "slow")
            value = (state["value"] * 0.9 + config["optimizer.lr"] * step % 7) / config["model.width"] ** 0.1
            state = {"value": value, "step": step, "tokens": state["tokens"] + tokens_of(config, step)}
            out.write(json.dumps({"step": step, "tokens": state["tokens"], "loss": value, "lr": config["optimizer.lr"],
                                  "tokens_per_s": 1e4}) + "\n")
            every = config["evaluation.every_steps"]
            if config["evaluation.paths"] and (step == config["train.steps"] or (every and step % every == 0)):
                out.write(json.dumps({"step": step, "eval/held/loss": value + 1}) + "\n")
            out.flush()
            saves = config["checkpoint.every_steps"]
            if (saves and step % saves == 0) or step == config["train.steps"]:
                save(folder, state)


def save(folder, state):
    final = folder / "checkpoints" / f"step_{state['step']:09d}"
    part = folder / "part"
    part.mkdir(parents=True, exist_ok=True)
    (part / "state.json").write_text(json.dumps(state))
    final.parent.mkdir(exist_ok=True)
    if not final.exists():
        part.rename(final)


def main():
    arguments = sys.argv[1:]
    config = read_config(arguments)
    if "--json" in arguments:
        print(json.dumps(plan_of(config)))
    elif "--print-config" in arguments:
        print(printed(config))
    elif "--dry-run" in arguments:
        missing = [path for path in config["data.paths"] if not Path(path).exists()]
        if missing:
            print(f"training tokens: {len(missing)} of {len(config['data.paths'])} files are missing on this machine")
    else:
        train(config)


if __name__ == "__main__":
    main()

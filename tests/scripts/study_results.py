"""Studies and results as the engine hands them to a report, of curves that are known."""
import sys
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "scripts"))  # last: it has a tokenize.py

from study.result_checks import named_config
from study.spec import Run

CONFIG = REPOSITORY / "configs" / "tiny-cpu.yaml"
BATCH = 512  # tokens of a step


def make_run(name, label=None, seeds=(1, 2, 3), parent=None, **overrides):
    return Run(name, label or name, CONFIG, {key.replace("__", "."): value for key, value in overrides.items()}, tuple(seeds),
               parent)


def make_study(runs, **other):
    report = {"metrics": [], "axes": ["tokens", "flops", "time"], "fits": [], "smooth_steps": 20} | other.pop("report", {})
    return SimpleNamespace(**({"name": "synthetic", "question": "Which is lower?", "paper": "", "baseline": runs[0].name,
                               "runs": tuple(runs), "report": report, "results": Path("results"),
                               "run": lambda name: next(run for run in runs if run.name == name)} | other))


def loss_at(step, final, pace=1.0):
    """A power law in steps that is `final` at step 400."""
    return final + 3 * ((pace * step) ** -0.5 - (pace * 400) ** -0.5)


def make_result(run, seed, final, steps=400, parent=None, **other):
    """Training loss as the law has it, held-out losses the same but 0.2 above and below; other keys replace those here."""
    pace, bins = other.pop("pace", 1.0), range(10, steps + 1, 10)
    start = parent["tokens"] if parent else 0
    series = {"bin_steps": 10, "step": list(bins), "tokens": [start + step * BATCH for step in bins],
              "loss": [loss_at(step - 4.5, final, pace) for step in bins],
              "lr": [2e-3] * len(bins), "max_expert_load": [1.5] * len(bins), "dead_experts": [0.0] * len(bins)}
    evaluations = [{"step": step, "tokens": start + step * BATCH,
                    "values": {f"eval/{name}_heldout/loss": loss_at(step, final, pace) + shift
                               for name, shift in (("prose", 0.2), ("cpp", -0.2))}}
                   for step in range(steps // 4, steps + 1, steps // 4)]
    flops = (parent["flops"] if parent else 0) + 6e6 * steps * BATCH
    return {"format": 1, "study": "synthetic", "run": run.name, "label": run.label, "seed": seed, "steps": steps,
            "config_hash": f"hash of {run.name}", "overrides": run.overrides, "version": "0.1.0 (abc)",
            "config": named_config(run), "data": {"train": "a1", "evaluation": "b2"},
            "parameters": {"total": 2000000, "active": 1000000}, "flops_per_token": 6e6, "flops": flops,
            "tokens": start + steps * BATCH, "parent": parent, "series": series, "evaluations": evaluations} | other


def make_diverged(result, step):
    """What is left of a result of a run that diverged at a step: whole bins of 10 before it, the last ones rising."""
    bins = (step - 1) // 10
    series = {key: values[:bins] if isinstance(values, list) else values for key, values in result["series"].items()}
    for back, more in zip(range(1, bins + 1), (8.0, 4.0, 1.0)):
        series["loss"][-back] += more
    tokens = series["tokens"][-1] if bins else result["tokens"] - result["steps"] * BATCH
    evaluations = [one for one in result["evaluations"] if one["tokens"] <= tokens]
    return {"format": 1, "diverged": step} | result | {"series": series, "evaluations": evaluations, "tokens": tokens,
                                                       "steps": 10 * bins}


def make_times(**seconds):
    """step_time.json of {name of a run: [seconds]}."""
    return {"machine": "2 cores", "rounds": [{"run": name, "s_per_step": time, "config_hash": f"hash of {name}"}
                                             for name, times in seconds.items() for time in times]}

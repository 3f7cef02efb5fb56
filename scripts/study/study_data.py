"""The finished runs of a study as the report looks at them: final values, curves and axes, and what is missing."""
import statistics
from dataclasses import dataclass

import numpy as np

from study.curves import Curve, smoothed
from study.statistics import ReportError, mean_estimate

SMOOTH_STEPS = 50  # where the study names none; a fifth of shorter runs
HELDOUT = "heldout"  # mean over the held-out sets
LOSS = "loss"  # training loss, mean of the last steps
AXES = {"tokens": "tokens", "flops": "training FLOPs", "time": "time"}
NAMES = {HELDOUT: "mean held-out loss", LOSS: "training loss", "lr": "learning rate", "grad_norm": "gradient norm",
         "load_balancing_loss": "load-balancing loss"}
DECIMALS = {"loss": 4, "max_expert_load": 2, "expert_load_variation": 3, "dead_experts": 1, "router_entropy": 3,
            "dropped_assignments": 1, "grad_norm": 3, "lr": 6}


def set_name(key):
    """prose_heldout of eval/prose_heldout/loss; other keys stay."""
    return key.removeprefix("eval/").removesuffix("/loss") if is_heldout_loss(key) else key.removeprefix("eval/")


def is_heldout_loss(key):
    return key.startswith("eval/") and key.endswith("/loss")


def steps_of(result):
    """Steps of the run itself, without its parent's."""
    series = result["series"]
    return series["step"][-1] - series["step"][0] + series["bin_steps"]  # the first bin is full


def default_smooth_steps(results):
    return max(1, min([SMOOTH_STEPS, *(steps_of(result) // 5 for result in results)]))


@dataclass(frozen=True)
class RunSeed:
    """One finished run of one seed."""
    result: dict
    smooth_steps: int

    @property
    def parent_tokens(self):
        return self.result["parent"]["tokens"] if self.result.get("parent") else 0

    @property
    def tokens(self):
        return self.result["series"]["tokens"][-1]

    def curve(self, key=LOSS):
        """Curve of a series against tokens, smoothed. None: no such series."""
        return smoothed(self.result["series"], key, self.smooth_steps, self.parent_tokens)

    def last_evaluation(self):
        """Values of the evaluation of the last step; {} where that step has none."""
        evaluations = self.result.get("evaluations") or []
        if not evaluations or evaluations[-1]["tokens"] != self.tokens:
            return {}
        return evaluations[-1]["values"]

    def flops_at(self, tokens):
        """Training FLOPs through the fork up to counts of tokens."""
        parent = self.result.get("parent") or {"flops": 0, "tokens": 0}
        return parent["flops"] + self.result["flops_per_token"] * (np.asarray(tokens, float) - parent["tokens"])

    def own_steps_at(self, tokens):
        series = self.result["series"]
        begin = series["step"][0] - series["bin_steps"]
        return np.interp(tokens, [self.parent_tokens, *series["tokens"]], [0, *(step - begin for step in series["step"])])


class RunData:
    """A run of the study in all seeds that are finished."""

    def __init__(self, run, index, seeds, step_time):
        self.name, self.label, self.run, self.index = run.name, run.label or run.name, run, index
        self.seeds = seeds  # {seed: RunSeed}
        self.step_time = step_time  # median seconds measured alone, or None

    @property
    def first(self):
        """The result of the first seed: for what seeds have in common."""
        return next(iter(self.seeds.values())).result


class StudyData:
    """`study` of study.spec, results and step times as the files have them."""

    def __init__(self, study, results, step_times):
        self.study, self.step_times = study, step_times
        self.smooth_steps = study.report.get("smooth_steps") or default_smooth_steps(results)
        found = {}
        for result in results:
            key = result["run"], result["seed"]
            if key in found:
                raise ReportError(f"run {key[0]}, seed {key[1]}: two results")
            found[key] = RunSeed(result, self.smooth_steps)
        planned = [(run.name, seed) for run in study.runs for seed in run.seeds]
        if unknown := sorted(found.keys() - set(planned)):
            raise ReportError(f"run {unknown[0][0]}, seed {unknown[0][1]}: a result that the study has no run for")
        # Runs that met a number that is not finite have no final values: they are named, and in no curve, fit or difference.
        self.diverged = {key: one.result["diverged"] for key, one in found.items() if "diverged" in one.result}
        self.missing = [key for key in planned if key not in found]
        self.num_planned, self.num_finished = len(planned), len(found)
        found = {key: one for key, one in found.items() if key not in self.diverged}
        self.seeds = found
        self.runs = [RunData(run, index, {seed: found[run.name, seed] for seed in run.seeds if (run.name, seed) in found},
                             self.median_step_time(run.name)) for index, run in enumerate(study.runs)]
        self.runs = [run for run in self.runs if run.seeds]
        if not self.runs:
            raise ReportError(f"study {study.name}: {'every finished run diverged' if self.diverged else 'no run is finished yet'}")
        self.baseline = next((run for run in self.runs if run.name == study.baseline), None)
        evaluated = [key for run in found.values() for key in run.last_evaluation()]
        self.heldout_keys = sorted({key for key in evaluated if is_heldout_loss(key)})
        series = [key for run in found.values() for key in run.result["series"] if key not in ("bin_steps", "step", "tokens")]
        self.known_keys = {HELDOUT, LOSS, *evaluated, *series}
        self.metrics = list(study.report.get("metrics") or [])
        if absent := [key for key in self.metrics if key not in self.known_keys]:
            raise ReportError(f"report.metrics: no result has {absent[0]}; there are {', '.join(sorted(self.known_keys))}")

    @property
    def candidates(self):
        return [run for run in self.runs if run is not self.baseline]

    @property
    def ranked_by(self):
        """The key that the answer is about."""
        return HELDOUT if self.heldout_keys else LOSS

    def median_step_time(self, name):
        rounds = [one["s_per_step"] for one in (self.step_times or {}).get("rounds", []) if one["run"] == name]
        return statistics.median(rounds) if rounds else None

    def final(self, one, key):
        """The final value of a RunSeed, or None where it has none."""
        values = one.last_evaluation()
        if key == HELDOUT:
            losses = [values.get(name) for name in self.heldout_keys]
            return sum(losses) / len(losses) if losses and None not in losses else None
        if key in values:
            return values[key]
        curve = one.curve(key)
        return None if curve is None else curve.final

    def finals(self, run, key):
        """{seed: final value or None}"""
        return {seed: self.final(one, key) for seed, one in run.seeds.items()}

    def mean_final(self, run, key):
        """Mean over the seeds that have it; None where none has."""
        values = [value for value in self.finals(run, key).values() if value is not None]
        return mean_estimate(values) if values else None

    def loss_curves(self, run):
        return {seed: one.curve() for seed, one in run.seeds.items()}

    def heldout_curves(self, run):
        """{seed: mean held-out loss against tokens at the evaluations that have every set}; None below two of them."""
        out = {}
        for seed, one in run.seeds.items():
            points = [(at["tokens"], np.mean([at["values"][key] for key in self.heldout_keys]))
                      for at in one.result.get("evaluations") or []
                      if self.heldout_keys and all(key in at["values"] for key in self.heldout_keys) and at["tokens"] > 0]
            out[seed] = Curve(*np.array(points, float).T) if len(points) > 1 else None
        return out

    def seconds_at(self, one, tokens):
        """Seconds through the fork, steps x the step time measured alone; None where one of the runs was not measured."""
        result = one.result
        own, before = self.median_step_time(result["run"]), 0.0
        if own is None:
            return None
        if parent := result.get("parent"):
            trunk = self.seeds.get((parent["run"], parent["seed"]))
            before = None if trunk is None else self.seconds_at(trunk, parent["tokens"])
            if before is None:
                return None
        return before + own * one.own_steps_at(tokens)

    def at_axis(self, one, axis, tokens):
        """Counts of tokens as FLOPs or seconds; None where that is not known."""
        if axis == "tokens":
            return np.asarray(tokens, float)
        return one.flops_at(tokens) if axis == "flops" else self.seconds_at(one, tokens)


def name_of(key):
    """A metric's name in tables."""
    return NAMES.get(key, set_name(key).replace("_", " "))


def decimals_of(key):
    return DECIMALS.get(key, 4)

"""The plan of a study: every run's config resolved and checked, its parameters, tokens, FLOPs and predicted hours."""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from study import identity
from study.programs import Refused
from study.spec import Run
from study.yaml_reader import StudyError

# A child's checkpoint is not there when it is planned.
NOT_YET = {"train.init_from": "", "train.init_optimizer": "reset", "train.init_progress": "restart"}
QUESTIONS_AT_ONCE = 2


@dataclass(frozen=True)
class Totals:
    """Of a run from the start of its trunk."""
    tokens: int
    flops: float


@dataclass(frozen=True, eq=False)
class RunPlan:
    """What the programs say of a run. It is the same in all seeds."""
    run: Run
    parent: "RunPlan | None"
    config: dict  # resolved and flat; of the first seed, without what it starts from
    identity: dict
    config_hash: str
    data: dict  # fingerprints of token files
    parameters: dict  # total, active
    flops_per_token: float  # with causal attention
    missing_files: int  # token files that are not on this machine
    step_s: float | None  # predicted, of a whole batch

    @property
    def steps(self):
        return self.config["train.steps"]

    @property
    def continues(self):
        return self.config["train.init_progress"] == "continue"

    @property
    def fork_step(self):
        """The parent's step that the run starts from; None without a parent."""
        return None if self.parent is None else self.run.parent_step or self.parent.steps

    @property
    def first_step(self):
        """The step before the first that the run trains."""
        return self.fork_step if self.continues else 0

    def own_tokens(self, step):
        """That a run of this config has seen after `step`, had it trained all of them itself: what its metrics count."""
        sequences, before = 0, 0
        for phase in self.config["train.batch_size_warmup"]:
            until = min(step, phase["until_step"])
            sequences += max(0, until - before) * phase["global_batch_size"]
            before = max(before, until)
        sequences += (step - before) * self.config["train.global_batch_size"]
        return sequences * self.config["data.sequence_length"]

    def fork(self):
        """Totals of the parent where the run begins."""
        return Totals(0, 0.0) if self.parent is None else self.parent.totals(self.fork_step)

    def totals(self, step):
        """Tokens and FLOPs after `step`, those of the parents up to the fork included."""
        begin, own = self.fork(), self.own_tokens(step) - self.own_tokens(self.first_step)
        return Totals(begin.tokens + own, begin.flops + own * self.flops_per_token)

    def predicted_hours(self):
        if self.step_s is None:
            return None
        batch = self.config["train.global_batch_size"] * self.config["data.sequence_length"]
        return (self.own_tokens(self.steps) - self.own_tokens(self.first_step)) / batch * self.step_s / 3600

    def describe_parent(self):
        """What the hash and the result say of it: its run, the step and its own hash."""
        return None if self.parent is None else {
            "run": self.parent.run.name, "step": self.fork_step, "config_hash": self.parent.config_hash,
            **({"prepare": list(self.run.prepare)} if self.run.prepare else {})}


    def describe(self):
        """What a result must have to be this run's."""
        return {"config": self.identity, "parent": self.describe_parent(), "data": self.data}


@dataclass(frozen=True)
class Plan:
    runs: dict  # RunPlan by name, parents first
    defaults: dict


def starting_overrides(run):
    """What a child starts with besides its weights: what its parent had, unless it says otherwise or is prepared."""
    kept = {"train.init_optimizer": "keep", "train.init_progress": "continue"} if run.parent and not run.prepare else {}
    return kept | {key: value for key, value in run.overrides.items() if key in NOT_YET}


def step_time_of(planned, config):
    """The predicted step of the config's own layout; None where olmoe-plan has none such."""
    replicate = config["parallel.replicate"]
    own = {"replicate": replicate, "shard": config["parallel.shard"] or planned["gpus"] // replicate,
           "expert": config["parallel.expert"], "zero_stage": config["parallel.zero_stage"],
           "recompute": config["train.recompute"]}
    return next((layout["step_s"] for layout in planned["layouts"] if own.items() <= layout.items()), None)


def resolve(run, programs):
    """The overrides that a run can be checked with before its parent is there, and its resolved config. Raises Refused."""
    overrides = run.overrides | {"run.folder": "run", "run.seed": run.seeds[0]} | (NOT_YET if run.parent else {})
    config = programs.config(run.config, overrides)
    if run.parent is None and config["train.init_progress"] == "continue":
        raise Refused("train.init_progress: continue is for a run with a parent in the study, so that its tokens are known")
    return overrides, config | starting_overrides(run)


def ask_about(run, hardware, programs):
    """Answers of the programs on a run: fields of its RunPlan. Raises Refused."""
    overrides, config = resolve(run, programs)
    missing = programs.dry_run(run.config, overrides, hardware)
    planned = programs.plan(run.config, overrides | NOT_YET, hardware)
    return {"config": config, "missing_files": missing, "data": identity.data_of(config),
            "parameters": planned["parameters"], "flops_per_token": planned["flops_per_token"]["causal"],
            "step_s": step_time_of(planned, config) if hardware else None}


def ask_about_all(runs, ask):
    """({run: answer}, {run: [problem]}) of ask(run), some at one time."""
    answers, problems = {}, {}
    with ThreadPoolExecutor(QUESTIONS_AT_ONCE) as pool:
        asked = {run.name: pool.submit(ask, run) for run in runs}
        for name, answer in asked.items():
            try:
                answers[name] = answer.result()
            except Refused as refused:
                problems[name] = [str(refused)]
    return answers, problems


def save_due(config, step):
    """As trainer/config/save_cadence.cpp, and of the last step."""
    every = next((piece["every_steps"] for piece in config["checkpoint.cadence"] if step <= piece["until_step"]),
                 config["checkpoint.every_steps"])
    return (every > 0 and step % every == 0) or (step == config["train.steps"] and config["checkpoint.save_last"])


def kept_problem(config, step):
    """Why a finished run of this config has no checkpoint of `step`; None where it has."""
    steps, keep, every = (config[key] for key in ("train.steps", "checkpoint.keep", "checkpoint.keep_every_steps"))
    if step > steps:
        return f"it ends at step {steps}"
    if not save_due(config, step):
        return "it does not save there: see checkpoint.every_steps and checkpoint.cadence"
    later = sum(save_due(config, other) for other in range(step + 1, steps + 1))
    if keep == 0 or later < keep or (every > 0 and step % every == 0):
        return None
    return f"it saves {later} more times and keeps {keep}: see checkpoint.keep and checkpoint.keep_every_steps"


def check_ranks(plan, ranks):
    """Yields what keeps a result from saying what the run learned."""
    if ranks is None and identity.joins_ranks(plan.config):
        yield f"{': '.join(identity.JOINS_RANKS)} joins all ranks: launch.ranks (or hardware) must say how many there are"


def check_fork(plan):
    """Yields what keeps a run from starting where it says."""
    parent, step = plan.parent, plan.fork_step
    if problem := kept_problem(parent.config, step):
        yield f"starts from step {step} of {parent.run.name}: {problem}"
    if plan.run.prepare and plan.continues:
        yield "train.init_progress: continue needs a step of its parent, and prepare makes another model"
    elif plan.continues:
        if differing := identity.fixed_differences(parent.config, plan.config):
            yield (f"continues the progress of {parent.run.name} with another {', '.join(differing)}; "
                   "train.init_progress: restart counts its steps anew")
        if plan.steps <= step:
            yield f"ends at step {plan.steps}, and begins after step {step} of {parent.run.name}"


def in_order(runs):
    """Parents first, else as they are."""
    out, waiting = [], list(runs)
    while waiting:
        run = next(run for run in waiting if run.parent in (None, *[one.name for one in out]))
        out.append(run)
        waiting.remove(run)
    return out


def join_runs(runs, answers, defaults, ranks):
    """({run: RunPlan}, {run: [problem]}): each joined to its parent, which leads it in `runs`."""
    plans, problems = {}, {}
    for run in runs:
        if run.name not in answers or (run.parent and run.parent not in plans):
            continue
        plan = RunPlan(run=run, parent=plans.get(run.parent), config_hash="",
                       identity=identity.identity_of(answers[run.name]["config"], ranks), **answers[run.name])
        if found := [*check_ranks(plan, ranks), *(check_fork(plan) if plan.parent else [])]:
            problems[run.name] = found
        plans[run.name] = replace(plan, config_hash=identity.hash_of(plan.identity, defaults, plan.describe_parent()))
    return plans, problems


def describe_problems(problems):
    """Runs with the same problem together."""
    runs = {}
    for name, found in problems.items():
        for problem in found:
            runs.setdefault(problem, []).append(name)
    return "; ".join(f"{', '.join(names)}: {problem}" for problem, names in runs.items())


def make_plan(study, programs):
    """Asks about every run. Raises StudyError that names all runs which cannot be started, and why."""
    runs = in_order(study.runs)
    try:
        defaults = programs.defaults()
    except Refused as refused:
        raise StudyError(f"{programs.program}: {refused}") from None
    answers, refused = ask_about_all(runs, lambda run: ask_about(run, study.hardware, programs))
    plans, problems = join_runs(runs, answers, defaults, study.launch.ranks)
    if problems := refused | problems:
        raise StudyError(f"{study.path}: {len(problems)} of {len(runs)} runs cannot be started: {describe_problems(problems)}")
    return Plan(plans, defaults)


def table_text(rows):
    """Rows of text as columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(cell.ljust(width) if number == 0 else cell.rjust(width)
                             for number, (cell, width) in enumerate(zip(row, widths))).rstrip() + "\n" for row in rows)


def describe_plan(study, plan):
    """The plan as a table, with totals over runs and seeds. Each run counts what it trains itself."""
    gpu = study.hardware
    rows = [["run", "seeds", "parameters", "active", "steps", "tokens", "of them own", "FLOPs",
             *([f"hours on {gpu.gpus} {gpu.gpu}"] if gpu else [])]]
    tokens = flops = hours = 0
    for run in study.runs:
        one = plan.runs[run.name]
        totals, begin = one.totals(one.steps), one.fork()
        own = Totals(totals.tokens - begin.tokens, totals.flops - begin.flops)
        predicted = one.predicted_hours()
        rows.append([run.name, str(len(run.seeds)), f"{one.parameters['total']:,}", f"{one.parameters['active']:,}",
                     str(one.steps), f"{totals.tokens:,}", f"{own.tokens:,}", f"{totals.flops:.3g}",
                     *(["-" if predicted is None else f"{predicted:.1f}"] if gpu else [])])
        tokens += own.tokens * len(run.seeds)
        flops += own.flops * len(run.seeds)
        hours += (predicted or 0) * len(run.seeds)
    runs = sum(len(run.seeds) for run in study.runs)
    text = f"{study.name}: {study.question}\n" + table_text(rows)
    text += f"in all: {runs} runs, {tokens:,} tokens, {flops:.3g} FLOPs"
    return text + (f", {hours:.1f} hours on {gpu.gpus} {gpu.gpu} (predicted, not measured)\n" if gpu else "\n")

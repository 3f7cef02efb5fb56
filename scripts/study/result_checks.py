"""Checks results against the study as it is now, from its files alone: a report needs no built program.

`olmoe-study status` compares every key, defaults and token files too; here are those that the study and its configs name.
"""
import os
from pathlib import Path

from study.identity import LEFT_OUT, names_of
from study.spec import text_of
from study.statistics import ReportError
from study.yaml_reader import StudyError, flat, read_yaml

PATHS = ("data.paths", "evaluation.paths")
SETS = "evaluation.sets"
# What a run with a parent starts with is checked as its parent.
STARTS = ("train.init_from", "train.init_optimizer", "train.init_progress")


def config_values(path, chain=()):
    """{key: value} of a config file over its bases, as far as they name keys. Raises StudyError."""
    path = Path(os.path.normpath(path))
    if path in chain:
        raise StudyError(f"{path}: its base leads back to it")
    try:
        values = flat(read_yaml(path.read_text(encoding="utf-8"), path) or {})
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    base = values.pop("base", None)
    return (config_values(path.parent / base, (*chain, path)) if base else {}) | values


def is_compared(key, run):
    return not (key in LEFT_OUT or key.startswith("checkpoint.") or (run.parent is not None and key in STARTS))


def named_config(run):
    """The keys that the study and the run's config name, of those that count, as a result has them."""
    values = {key: value for key, value in (config_values(run.config) | run.overrides).items() if is_compared(key, run)}
    for key in PATHS:
        if key in values:
            values[key] = names_of(values[key])
    if SETS in values:
        values[SETS] = [one | {"paths": names_of(one["paths"])} for one in values[SETS]]
    return values


def agrees(named, resolved):
    """Whether a value is what a config names: resolved sections have more keys."""
    if isinstance(named, dict):
        return isinstance(resolved, dict) and all(key in resolved and agrees(one, resolved[key]) for key, one in named.items())
    if isinstance(named, list):
        return isinstance(resolved, list) and len(named) == len(resolved) and all(map(agrees, named, resolved))
    return named == resolved and isinstance(named, bool) == isinstance(resolved, bool)


def config_changes(run, named, result):
    """Yields what the config of a result and the one that the study has now do not have in common."""
    there = result["config"]
    for key, value in sorted(named.items()):
        if key not in there:
            yield f"{key}: {text_of(value)} now, no key of the result"
        elif not agrees(value, there[key]):
            yield f"{key}: {text_of(there[key])} then, {text_of(value)} now"
    for key, value in sorted(result["overrides"].items()):
        if key not in named and is_compared(key, run):
            yield f"{key}: {text_of(value)} then, not named now"


def parent_changes(study, run, result, found):
    """Yields what is not the same in the parent of a result and the one that the study names."""
    parent = result["parent"]
    if (parent is None) != (run.parent is None):
        yield f"a parent: {parent and parent['run']} then, {run.parent} now"
    if parent is None or run.parent is None:
        return
    trunk = found.get((run.parent, result["seed"]))
    step = run.parent_step or named_config(study.run(run.parent)).get("train.steps")
    for what, then, now in (("parent", parent["run"], run.parent), ("parent_step", parent["step"], step),
                            ("prepare", parent.get("prepare"), list(run.prepare) if run.prepare else None),
                            ("the parent's config", parent["config_hash"], trunk and trunk["config_hash"])):
        if then != now and not (now is None and what in ("parent_step", "the parent's config")):  # then it is not known here
            yield (f"{what} is another" if what == "the parent's config" else f"{what}: {then} then, {now} now")


def refuse_mixed_seeds(run, results):
    """Seeds of a run differ in nothing else: where keys do that no file names, nobody here knows which are the study's."""
    first = results[0]
    for other in results[1:]:
        keys = sorted(key for key in first["config"].keys() | other["config"].keys()
                      if first["config"].get(key) != other["config"].get(key))
        keys += [f"{kind} tokens" for kind, there in first["data"].items()
                 if there and other["data"].get(kind) and there != other["data"][kind]]
        if first["config_hash"] != other["config_hash"] or keys:
            raise ReportError(f"run {run.name}: seeds {first['seed']} and {other['seed']} are of different configs "
                              f"({', '.join(keys) or 'config_hash'}); olmoe-study status says which is the study's")


def results_of_study(study, results):
    """([result], {(run, seed): [what differs]}): results of runs as the study has them, and those of other configs.

    Raises ReportError for two results of one run, results of no run, and seeds of different configs.
    """
    found = {}
    for result in results:
        key = result["run"], result["seed"]
        if key in found:
            raise ReportError(f"run {key[0]}, seed {key[1]}: two results")
        found[key] = result
    planned = {(run.name, seed): run for run in study.runs for seed in run.seeds}
    if unknown := sorted(found.keys() - planned.keys()):
        raise ReportError(f"run {unknown[0][0]}, seed {unknown[0][1]}: a result that the study has no run for")
    named, changed = {run.name: named_config(run) for run in study.runs}, {}
    for key, result in found.items():
        run = planned[key]
        changes = [*config_changes(run, named[run.name], result), *parent_changes(study, run, result, found)]
        if changes:
            changed[key] = changes
    own = set(changed)
    for name, seed in found:
        ancestor = planned[name, seed]
        while ancestor.parent is not None:
            ancestor = study.run(ancestor.parent)
            if (ancestor.name, seed) in own and (name, seed) not in changed:
                changed[name, seed] = [f"it starts from {ancestor.name}, whose result is of another config"]
    kept = [result for key, result in found.items() if key not in changed]
    for run in study.runs:
        if of_run := [result for result in kept if result["run"] == run.name]:
            refuse_mixed_seeds(run, of_run)
    return kept, changed

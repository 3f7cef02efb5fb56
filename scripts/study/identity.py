"""What makes a result the result of a run: the resolved config without what does not change what is learned."""
import functools
import hashlib
import json
import os
from pathlib import Path

# Where and how a run computes, saves and logs.
LEFT_OUT = {"run.folder", "run.seed", "run.threads", "run.hang_timeout_s", "data.root", "data.paths_file", "data.prefetch",
            "data.check_ids", "data.verify", "log.every_steps", "log.host_syncs", "log.routing_every_steps", "parallel.replicate",
            "parallel.shard", "parallel.expert", "parallel.expert_chunks", "parallel.zero_stage", "parallel.overlap",
            "parallel.registered_memory", "parallel.transport"}
# The load-balancing loss joins a micro-batch of every rank: their number is part of what is learned. Nothing else that is
# learned depends on it but for rounding (docs/numerics.md).
JOINS_RANKS = ("model.load_balancing_granularity", "global")
RANKS_KEY = "launch.ranks"
MOST_NAMES = 20
BLOCK = 4096
BLOCKS = 16
# A run that continues another's progress must have its model, seed, batch and data: trainer/config/fixed_keys.cpp.
FIXED_KEYS = {"train.global_batch_size", "train.batch_size_warmup", "data.sequence_length", "data.document_mask",
              "data.eos_id"}
FREE_KEYS = {"model.load_balancing_weight", "model.load_balancing_granularity", "model.load_balancing_over_layers",
             "model.balancing_bias_rate", "model.router_z_weight", "model.loss_chunk", "model.init_std",
             "model.init_cutoff", "model.init", "model.output_z_weight"}


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def names_of(paths):
    """Paths without the folders of one machine; a long list as its number and hash."""
    names = [Path(path).name for path in paths]
    return names if len(names) <= MOST_NAMES else f"{len(names)} files, sha256 {digest(names)[:16]}"


def joins_ranks(config):
    key, value = JOINS_RANKS
    return config.get(key) == value


def identity_of(config, ranks):
    """Of a resolved, flat config. The seed is not in it: a result names it itself."""
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT and not key.startswith("checkpoint.")}
    for key in ("data.paths", "evaluation.paths"):
        kept[key] = names_of(kept.get(key, []))
    kept["evaluation.sets"] = [one | {"paths": names_of(one["paths"])} for one in kept.get("evaluation.sets", [])]
    return kept | ({RANKS_KEY: ranks} if joins_ranks(config) else {})


def hash_of(identity, defaults, parent):
    """Keys with their default are left out, so that a new key of the program changes no hash. `parent`: None, or what the
    run starts from."""
    changed = {key: value for key, value in identity.items() if key not in defaults or value != defaults[key]}
    return digest({"config": changed, "parent": parent})


def differences(then, now, defaults):
    """What is not the same in two identities, as text. A key that one lacks is new there: it had its default."""
    out = []
    for key in sorted(then.keys() | now.keys()):
        if key not in now:
            out.append(f"{key}: {then[key]!r} then, no key of the program now")
        elif (before := then.get(key, defaults.get(key))) != now[key]:
            out.append(f"{key}: {before!r} then, {now[key]!r} now")
    return out


def fixed_differences(parent, child):
    """Keys of two resolved configs that must be the same where the child continues its parent's progress."""
    fixed = [key for key in child if key in FIXED_KEYS or (key.startswith("model.") and key not in FREE_KEYS)]
    paths = [key for key in ("data.paths", "data.synthetic", "data.skip") if parent.get(key) != child.get(key)]
    return [key for key in fixed if parent.get(key) != child[key]] + paths


@functools.lru_cache(maxsize=64)
def fingerprint(paths):
    """A hash of the token files: names, sizes, and all of small ones, blocks of large ones. None where one is not here."""
    total = hashlib.sha256()
    for path in paths:
        try:
            size = os.stat(path).st_size
            total.update(f"{Path(path).name} {size}\n".encode())
            with open(path, "rb") as file:
                for block in range(BLOCKS):
                    file.seek(max(0, size - BLOCK) * block // (BLOCKS - 1))
                    total.update(file.read(BLOCK))
        except OSError:
            return None
    return total.hexdigest()


def data_of(config):
    """Fingerprints of what a run trains and is evaluated on; None for generated tokens and files that are not here."""
    sets = config.get("evaluation.paths", []) + [path for one in config.get("evaluation.sets", []) for path in one["paths"]]
    train = config.get("data.paths", [])
    return {"train": fingerprint(tuple(train)) if train else None, "evaluation": fingerprint(tuple(sets)) if sets else None}

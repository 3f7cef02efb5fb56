"""Synthetic routing, counted token by token, in the arrays that olmoe-analyze writes."""
import json

import numpy as np

LAYERS, EXPERTS, TOP_K, LENGTH, DOMAINS, STEPS, VOCAB = 4, 16, 4, 32, ("arxiv", "github", "wiki"), (10, 100, 400), 40
CAPACITY = 9


def synthetic_choices(seed=0, sequences=24):
    """(experts [C, G, L, n, S, K] by falling score, ids [G, n, S]): routers that settle, and like an id's own experts."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.geometric(0.08, (len(DOMAINS), sequences, LENGTH)) - 1 + 3 * np.arange(len(DOMAINS))[:, None, None], VOCAB - 1)
    of_id = rng.normal(size=(LAYERS, VOCAB, EXPERTS))
    of_domain = rng.normal(size=(len(DOMAINS), LAYERS, EXPERTS))
    noise = rng.normal(size=(len(DOMAINS), LAYERS, sequences, LENGTH, EXPERTS))
    scores = []
    for settled in (0.2, 0.7, 1.0):
        own = np.stack([of_id[layer][ids] for layer in range(LAYERS)], axis=1) + of_domain[:, :, None, None]
        drift = rng.normal(size=noise.shape)
        scores.append(settled * own + 0.6 * noise + (1 - settled) * drift)
    return np.argsort(-np.array(scores), axis=-1, kind="stable")[..., :TOP_K], ids


def counted(choices, ids):
    """Every array by plain loops or ones; the last checkpoint is the reference."""
    last = choices[-1]
    ones = (last[..., None] == np.arange(EXPERTS)).sum(axis=-2)  # [G, L, n, S, E]
    flat = ones.transpose(1, 0, 2, 3, 4).reshape(LAYERS, -1, EXPERTS)
    all_ones = (choices[..., None] == np.arange(EXPERTS)).sum(axis=-2)
    top_1 = (choices[..., 0, None] == np.arange(EXPERTS)).astype(int)
    tokens = ids[0].size
    arrays = {"load.counts": all_ones.sum(axis=(3, 4)), "load.top_1": top_1.sum(axis=(3, 4)),
              "load.tokens": np.full((len(STEPS), len(DOMAINS)), tokens),
              "domains.share": all_ones.sum(axis=(3, 4)) / tokens, "domains.share_top_1": top_1.sum(axis=(3, 4)) / tokens}
    both = (all_ones * all_ones[-1]).sum(axis=(1, 3, 4, 5)) / (ids.size * TOP_K)
    same_top = (choices[..., 0] == choices[-1][..., 0]).sum(axis=(1, 3, 4)) / ids.size
    arrays |= {"saturation.top_k": both, "saturation.top_1": same_top}
    pairs = np.einsum("lni,lnj->lij", flat, flat) * (1 - np.eye(EXPERTS, dtype=int))
    arrays |= {"coactivation.pairs": pairs, "coactivation.conditional": pairs / flat.sum(axis=1)[:, :, None]}
    layers = [(0, 1), (1, 2), (2, 3), (1, 3)]
    arrays |= {"flow.layers": np.array(layers), "flow.pairs": np.array([flat[a].T @ flat[b] for a, b in layers])}
    return arrays | by_id(ones, top_1[-1], ids) | dropped(last) | of_weights()


def by_id(ones, top_1, ids):
    chosen = [0, 1, 3]
    known = np.unique(ids)
    table = np.array([[ones[:, layer][ids == one].sum(axis=0) for one in known] for layer in chosen])
    first = np.array([[top_1[:, layer][ids == one].sum(axis=0) for one in known] for layer in chosen])
    tokens = first.sum(axis=2)
    share = table / table.sum(axis=2, keepdims=True)
    arrays = {"contexts.ids": known, "contexts.tokens": tokens[0], "contexts.deviation": share.std(axis=2),
              "contexts.chance": np.sqrt((1 - TOP_K / EXPERTS) / EXPERTS / (TOP_K * tokens[0])),
              "contexts.by_previous": np.full((3, len(known)), 0.3), "contexts.at_random": np.full((3, len(known)), 0.1),
              "contexts.position_deviation": (ones.sum(axis=(0, 2)) / (ones.sum(axis=(0, 2, 4))[..., None])).std(axis=2).T,
              "early.ids": known, "early.variation": np.array([[0.6, 0.5, 0.55], [0.2, 0.15, 0.2], [0, 0, 0]])}
    for kind in ("input", "next", "predicted"):
        arrays |= {f"vocabulary.{kind}.ids": known, f"vocabulary.{kind}.counts": table, f"vocabulary.{kind}.top_1": first,
                   f"vocabulary.{kind}.specialization": (table.max(axis=2) / tokens).mean(axis=1)}
    return arrays


def dropped(last):
    """Assignments of a sequence beyond the capacity, by position: [G, L, S]."""
    lost = np.zeros((len(DOMAINS), LAYERS, LENGTH), int)
    for place in np.ndindex(last.shape[:3]):
        taken = np.zeros(EXPERTS, int)
        for position, experts in enumerate(last[place]):
            for expert in experts:
                taken[expert] += 1
                lost[place[0], place[1], position] += taken[expert] > CAPACITY
    return {"drops.assignments": lost, "drops.sequences": np.full(len(DOMAINS), last.shape[2])}


def of_weights():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(LAYERS, EXPERTS, 60)) + 0.4
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    peaks = rng.lognormal(size=(LAYERS, EXPERTS))
    peaks[1, 5] = 60
    return {"similarity.experts": rows @ rows.transpose(0, 2, 1), "super.peaks": peaks}


def metadata():
    return {"layers": str(LAYERS), "experts": str(EXPERTS), "top_k": str(TOP_K), "sequence_length": str(LENGTH), "min_count": "1",
            "capacity": str(CAPACITY), "domains": "\n".join(DOMAINS), "steps": " ".join(map(str, STEPS)), "table_layers": "0 1 3",
            "checkpoints": "\n".join(f"step_{step}" for step in STEPS)}


def write_safetensors(path, arrays, words):
    header, data = {"__metadata__": words}, b""
    for name, values in arrays.items():
        values = np.ascontiguousarray(values, "<f8" if values.dtype.kind == "f" else "<i8")
        header[name] = {"dtype": "F64" if values.dtype.kind == "f" else "I64", "shape": list(values.shape),
                        "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)

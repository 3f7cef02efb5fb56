"""Turns a task as text into the arrays of a task file: equal texts are encoded once, equal sequences are stored once."""
import collections

import numpy as np

from script_errors import DataError
from tasks.task_file import FORMAT, PREPARED

# What was made of a task. query_tokens: of all rows, cut to `context` as a scorer does; longest: before that;
# truncated: rows that lose tokens; too_long: rows whose continuation alone does not fit
Counts = collections.namedtuple("Counts", "documents rows query_tokens longest truncated too_long")


class SequencePool:
    """Distinct sequences of ids, numbered in the order in which they came."""

    def __init__(self, ids_of):
        self.ids_of = ids_of
        self.by_text, self.by_ids, self.sequences = {}, {}, []

    def add(self, text, min_ids=0):
        """The number of a text's ids, None where they are too few."""
        if text not in self.by_text:
            ids = self.ids_of(text)
            if len(ids) < min_ids:
                return None
            number = self.by_ids.setdefault(ids.tobytes(), len(self.sequences))
            if number == len(self.sequences):
                self.sequences.append(ids)
            self.by_text[text] = number
        return self.by_text[text]

    def lengths(self):
        return np.array([len(ids) for ids in self.sequences], np.int64)

    def arrays(self, name):
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths(), dtype=np.int64)])
        ids = np.concatenate([np.zeros(0, np.int32), *self.sequences])
        return {f"{name}_ids": ids, f"{name}_bounds": bounds}


def make_arrays(task, tokenizer, first_id=None):
    """{name: array} of the task file. DataError names a row that nothing could score; a text of one token, which nothing
    predicts without a first id, is left out."""
    pools = SequencePool(tokenizer.ids_of), SequencePool(tokenizer.ids_of)
    min_ids = 2 if task.kind == "documents" and first_id is None else 0
    columns, labels = collections.defaultdict(list), []
    for document in task.documents:
        for choice, row in enumerate(document.rows):
            where = f"{document.where}: choice {choice}" if len(document.rows) > 1 else document.where
            numbers = numbers_of(task, where, row, pools, min_ids)
            if numbers is None:
                task.left_out["texts of one token"] += 1
                break
            for name, value in {"row_document": len(labels), "row_choice": choice, **numbers}.items():
                columns[name].append(value)
        else:
            labels.append(document.label)
    if not labels:
        raise DataError(f"{task.name}: holds no documents")
    tensors = {name: np.array(values, np.int64) for name, values in {**columns, "document_label": labels}.items()}
    return {**tensors, **pools[0].arrays("context"), **pools[1].arrays("continuation")}


def numbers_of(task, where, row, pools, min_ids):
    """{column: value} of a row, None where its continuation has fewer ids than are needed but some."""
    contexts, continuations = pools
    numbers = {"row_domain": -1}
    try:
        numbers["row_continuation"] = continuations.add(row.continuation, min_ids)
        if numbers["row_continuation"] is None and len(continuations.ids_of(row.continuation)):
            return None
        numbers["row_context"] = contexts.add(row.context)
        if row.domain is not None:
            numbers["row_domain"] = contexts.add(row.domain)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if numbers["row_continuation"] is None or not len(continuations.sequences[numbers["row_continuation"]]):
        raise DataError(f"{where}: its continuation is empty")
    for what in ("context", "domain"):
        number = numbers[f"row_{what}"]
        if task.kind != "documents" and number >= 0 and not len(contexts.sequences[number]):
            raise DataError(f"{where}: its {what} is empty: nothing would predict the first token of the continuation")
    for version, text in (("", row.continuation), ("_v1", task.v1_text(row.continuation))):
        if not text:
            raise DataError(f"{where}: its continuation {row.continuation!r} has no length in metrics version v1")
        numbers[f"row_chars{version}"] = len(text)
        numbers[f"row_bytes{version}"] = len(text.encode("utf-8"))
    return numbers


def metadata_of(task, tokenizer, first_id=None):
    metadata = {"format": FORMAT, "name": task.name, "kind": task.kind, "metric": task.metric, "source": task.source,
                "tokenizer": tokenizer.name, "vocab_size": str(tokenizer.vocab_size), "prepared": PREPARED}
    if task.kind == "documents" and first_id is not None:
        metadata["first_id"] = str(first_id)
    return metadata


def count(tensors, context):
    """The Counts of a task whose queries a scorer cuts to `context` tokens."""
    scored = np.diff(tensors["continuation_bounds"])[tensors["row_continuation"]]
    lengths = np.diff(tensors["context_bounds"])[tensors["row_context"]] + scored - 1
    return Counts(len(tensors["document_label"]), len(lengths), int(np.minimum(lengths, context).sum()),
                  int(lengths.max()), int((lengths > context).sum()), int((scored > context).sum()))

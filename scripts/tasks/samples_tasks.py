"""Makes a task of lm-evaluation-harness's samples_TASK_TIME.jsonl, which --log_samples writes: same texts, same labels.

`arguments` has the pairs (context, continuation) that the harness scored, as lists or as gen_args_0: {arg_0, arg_1};
`target` is the index or the text of the right one, as a string. A document repeats once for each filter. Requests
of an empty context, which the harness adds for acc_mutual_info, are left out.
"""
import collections
import os
import re

from script_errors import DataError
from tasks.json_lines import read_json_lines
from tasks.json_tasks import common_kind, task_of, text_document, without_repeated
from tasks.task import Document, Row


def samples_name(path):
    """The name of the task in a file's name, without the time."""
    stem = os.path.basename(path).split(".jsonl")[0].removeprefix("samples_")
    return re.sub(r"_\d{4}-\d\d-\d\dT[\d.:-]+$", "", stem)


def samples_task(path, name, metric, source, label_field):
    """The Task of a file of samples. label_field: (key of the source record, number of the first label) or None."""
    left_out = collections.Counter()
    samples = list(without_repeated(read_json_lines(path), "doc_id", left_out))
    if not samples:
        raise DataError(f"{path}: holds no documents")
    pairs = [(where, sample, arguments_of(where, sample)) for where, sample in samples]
    if all(len(one) == 1 for _, _, arguments in pairs for one in arguments):
        texts = [(where, text) for where, _, arguments in pairs for text, in arguments]
        documents = [found for where, text in texts if (found := text_document(where, {"text": text}, left_out))]
        return task_of(name, "documents", metric, source, documents, left_out)
    documents = [sample_document(*sample, label_field, left_out) for sample in pairs]
    return task_of(name, common_kind(documents), metric, source, documents, left_out)


def arguments_of(where, sample):
    """The requests of a document, each a tuple of one text (rolling log-likelihood) or of context and continuation."""
    arguments = sample.get("arguments")
    if isinstance(arguments, dict):
        arguments = [arguments.get(f"gen_args_{i}") for i in range(len(arguments))]
    if not isinstance(arguments, list) or not arguments:
        raise DataError(f"{where}: no arguments; a file of --log_samples is needed")
    requests = []
    for one in arguments:
        values = tuple(one.get(f"arg_{i}") for i in range(len(one))) if isinstance(one, dict) else tuple(one or ())
        if len(values) not in (1, 2) or not all(isinstance(value, str) for value in values):
            raise DataError(f"{where}: its arguments are no texts to score (a task that generates has none)")
        requests.append(values)
    return requests


def sample_document(where, sample, arguments, label_field, left_out):
    if any(len(one) != 2 for one in arguments):
        raise DataError(f"{where}: a text without a context, where other documents have one")
    scored = [one for one in arguments if one[0]]
    left_out["requests of an empty context"] += len(arguments) - len(scored)
    if not scored:
        raise DataError(f"{where}: its context is empty: nothing would predict the first token of the continuation")
    label = 0
    if len(scored) > 1:
        label = field_label(where, sample, label_field) if label_field else target_label(where, sample, scored)
        if not 0 <= label < len(scored):
            raise DataError(f"{where}: label {label} is not the index of one of its {len(scored)} continuations")
    return Document(where, label, [Row(*one, None) for one in scored])


def target_label(where, sample, scored):
    """The label by the target, which is an index or the text of a continuation; both at once is refused."""
    target = str(sample.get("target"))
    texts = [continuation for _, continuation in scored]
    found = {i for i, text in enumerate(texts) if text == target or text.strip() == target.strip()}
    if target.isdecimal():
        found.add(int(target))
    if len(found) == 1:
        return found.pop()
    reason = "fits several continuations" if found else "is neither the index nor the text of a continuation"
    raise DataError(f"{where}: target {target!r} {reason}; --label-field names the key of its doc that holds the label")


def field_label(where, sample, label_field):
    key, first = label_field
    value = (sample.get("doc") or {}).get(key)
    try:
        return int(value) - first
    except (TypeError, ValueError):
        raise DataError(f"{where}: its doc has no number under {key!r}, but {value!r}") from None

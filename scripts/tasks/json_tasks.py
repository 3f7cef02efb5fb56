"""Makes a task of a user's JSON lines: choices to rank after a context, or whole texts for a perplexity set.

    {"context": "Two and two is", "choices": [" four", " five"], "label": 0}
    {"context": ["The cat, as", "The dog, as"], "choices": [" it barked"], "label": 1}
    {"text": "A document of a perplexity set."}

Texts are taken as they are. `unconditional` is the context of pmi_dc, one string or one for each choice; `id` names a
document in messages, and finds repeated ones. Without `label` a document has one choice, the right one.
"""
import collections

from script_errors import DataError
from tasks.json_lines import read_json_lines
from tasks.task import METRICS, Document, Row, Task, check_label, check_metric, kind_of, whole, without_space


def json_task(path, name, metric, source):
    """The Task of a file of one of the two forms; `metric` None: the default of its kind."""
    left_out = collections.Counter()
    records = without_repeated(read_json_lines(path), "id", left_out)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: holds no documents")
    is_text = "text" in first[1]
    records = [first, *records]
    if is_text:
        documents = [document for where, record in records if (document := text_document(where, record, left_out))]
        return task_of(name, "documents", metric, source, documents, left_out)
    documents = [choice_document(where, record) for where, record in records]
    return task_of(name, common_kind(documents), metric, source, documents, left_out)


def without_repeated(records, key, left_out):
    """Yields (where, record) without those that are equal to an earlier one of the same key."""
    seen = {}
    for where, record in records:
        number = record.get(key)
        if number is not None:
            where = f"{where}: document {number}"
            identity = repr(number)
            if identity in seen:
                if seen[identity] != comparable(record):
                    raise DataError(f"{where}: this {key} has another document before")
                left_out["repeated documents"] += 1
                continue
            seen[identity] = comparable(record)
        yield where, record


def comparable(record):
    """What makes two documents one: for samples of a harness not the scores, which each of its filters has anew."""
    keys = ("arguments", "target") if "arguments" in record else record.keys()
    return {key: record.get(key) for key in keys}


def common_kind(documents):
    kind = kind_of({len(document.rows) for document in documents})
    if kind is None:
        single = next(document for document in documents if len(document.rows) == 1)
        raise DataError(f"{single.where}: has one choice, where other documents have several to rank")
    return kind


def task_of(name, kind, metric, source, documents, left_out):
    metric = metric or METRICS[kind][0]
    check_metric(metric, kind, name)
    has_domain = [document.rows[0].domain is not None for document in documents]
    if len(set(has_domain)) > 1:
        raise DataError(f"{documents[has_domain.index(False)].where}: no unconditional context, but others have one")
    if metric == "pmi_dc" and not all(has_domain):
        raise DataError(f"{name}: metric pmi_dc needs an unconditional context in every document")
    return Task(name, kind, metric, source, documents, whole if kind == "documents" else without_space, left_out)


def text_document(where, record, left_out):
    """A document of a perplexity set, None where it is white space alone."""
    text = record.get("text")
    if not isinstance(text, str) or "choices" in record:
        raise DataError(f"{where}: a perplexity set has a string under 'text' in every line, and no choices")
    if not text.strip():
        left_out["empty documents"] += 1
        return None
    return Document(where, 0, [Row("", text, None)])


def strings(record, key, where):
    """A string or a list of strings, as a list."""
    value = record.get(key)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise DataError(f"{where}: a string or a list of strings is needed under {key!r}")
    return found


def choice_document(where, record):
    if not isinstance(record.get("choices"), list):
        raise DataError(f"{where}: a list of strings is needed under 'choices' (or a string under 'text', in all lines)")
    lists = {"context": strings(record, "context", where), "choices": strings(record, "choices", where)}
    if record.get("unconditional") is not None:
        lists["unconditional"] = strings(record, "unconditional", where)
    num_rows = max(len(lists["context"]), len(lists["choices"]))
    for key, values in lists.items():
        if len(values) not in (1, num_rows):
            raise DataError(f"{where}: {len(values)} strings under {key!r} do not fit {num_rows} rows")
        lists[key] = values * (num_rows // len(values))
    label = record.get("label", 0 if num_rows == 1 else None)
    check_label(label, num_rows, where)
    domains = lists.get("unconditional", [None] * num_rows)
    return Document(where, label, [Row(*row) for row in zip(lists["context"], lists["choices"], domains)])

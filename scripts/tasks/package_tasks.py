"""Makes tasks of the package's labels: prompts of our own for its data sets, and its rendered requests as they are."""
import collections

from script_errors import DataError
from tasks import mmlu
from tasks.package import FIRST_UNCONDITIONAL, NAME, VERSION
from tasks.prompts import DATA_SETS
from tasks.task import METRICS, Document, Row, Task, check_label, without_first


def package_task(package, label):
    """The Task of a label."""
    if label in DATA_SETS:
        data_set = DATA_SETS[label]
        records = package.records(data_set.folder, "validation")
        documents = [document_of(where, record, data_set.document) for where, record in records]
        return task_of(label, "multiple_choice", data_set.metric, documents)
    if label in mmlu.LABELS:
        return task_of(label, "multiple_choice", mmlu.METRIC, mmlu_documents(package, *mmlu.LABELS[label]))
    return requests_task(package, label)


def labels_of(package):
    """All labels that package_task knows, sorted."""
    return sorted({*DATA_SETS, *mmlu.LABELS, *package.request_labels()})


def task_of(label, kind, metric, documents, left_out=None):
    source = f"{NAME} {VERSION}, label {label}"
    return Task(label, kind, metric, source, documents, without_first, left_out or collections.Counter())


class Record(dict):
    """A record whose missing values raise, where a prompt would say None."""

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if value is None:
            raise ValueError(f"no {key}")
        return value


def document_of(where, record, make):
    """A Document by a function from a record to (label, rows)."""
    try:
        label, rows = make(Record(record))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not as this data set's records are: {error!r}") from None
    check_label(label, len(rows), where)
    return Document(where, label, rows)


def mmlu_documents(package, category, form):
    documents = []
    for subject in mmlu.CATEGORIES[category]:
        folder = f"{mmlu.FOLDER}/{subject}"
        examples = [record for _, record in package.records(folder, "dev")] if form.num_shots != (None,) else []
        if len(examples) < max(shots or 0 for shots in form.num_shots):
            raise DataError(f"{folder}/dev: {len(examples)} examples, fewer than the prompts show")
        for where, record in package.records(folder, form.split):
            for number, shots in enumerate(form.num_shots):
                prompt = f"{where}, prompt {number}"
                documents.append(document_of(prompt, record, lambda one: mmlu.document(one, examples, form, shots)))
    return documents


def requests_task(package, label):
    table = package.request_labels()
    if label not in table:
        raise DataError(f"label {label}: unknown; --list prints those that there are")
    folder, variant, metric = table[label]
    requests = list(package.requests(folder, variant))
    if not requests:
        raise DataError(f"label {label}: its requests file is empty")
    left_out = collections.Counter()
    if metric in METRICS["gold"]:
        return task_of(label, "gold", metric, gold_documents(requests, left_out), left_out)
    return task_of(label, "multiple_choice", metric, choice_documents(requests, left_out), left_out)


def gold_documents(requests, left_out):
    """One row a document: its right continuation, which is all there is where the label is a text or a list."""
    documents = {}
    for request in requests:
        label = 0 if request.label is None else request.label
        if request.document >= FIRST_UNCONDITIONAL:
            left_out["unconditional requests"] += 1
        elif not isinstance(label, (str, list)) and label != request.index:
            left_out["wrong continuations"] += 1
        elif request.document in documents:
            left_out["repeated rows"] += 1
        else:
            row = Row(request.context, request.continuation, None)
            documents[request.document] = Document(request.where, 0, [row])
    return list(documents.values())


def choice_documents(requests, left_out):
    """All rows of a document in the order of their indices; one that lacks an index before its last is left out."""
    documents, domains = collections.defaultdict(dict), {}
    for request in requests:
        if request.document >= FIRST_UNCONDITIONAL:
            domains.setdefault((request.document - FIRST_UNCONDITIONAL, request.index), request)
        elif request.index in documents[request.document]:
            left_out["repeated rows"] += 1
        else:
            documents[request.document][request.index] = request
    found = []
    for number, by_index in documents.items():
        if sorted(by_index) != list(range(len(by_index))):
            left_out["documents with a continuation missing"] += 1
            continue
        rows = [by_index[index] for index in range(len(by_index))]
        check_label(rows[0].label, len(rows), rows[0].where)
        found.append(Document(rows[0].where, rows[0].label,
                              [Row(row.context, row.continuation, domain_of(row, domains)) for row in rows]))
    return found


def domain_of(request, domains):
    """The context of the same continuation without its question, None in files without such requests."""
    if not domains:
        return None
    unconditional = domains.get((request.document, request.index))
    if unconditional is None or unconditional.continuation != request.continuation:
        raise DataError(f"{request.where}: continuation {request.index} has no unconditional request, but others have")
    return unconditional.context

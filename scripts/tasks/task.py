"""A task as text, as a source hands it over, before any tokenizer sees it."""
import collections

from script_errors import DataError

METRICS = {
    "multiple_choice": ("acc", "len_norm", "pmi_dc", "f1"),
    "gold": ("bpb", "ce_loss"),
    "documents": ("perplexity",),
}  # the first is the default of files that name none

# One continuation to score. domain: the context that stands for no question at all (pmi_dc), or None.
Row = collections.namedtuple("Row", "context continuation domain")
# where: file, line or record, and document, for messages; label: index of the right row
Document = collections.namedtuple("Document", "where label rows")
# v1_text: of a continuation, the part whose length is that of metrics version v1; left_out: Counter by reason
Task = collections.namedtuple("Task", "name kind metric source documents v1_text left_out")


def without_first(text):
    """v1 of the package: a continuation without its first character, whatever that is."""
    return text[1:]


def without_space(text):
    """v1 of lm-evaluation-harness: without the space that separates context and continuation."""
    return text.removeprefix(" ")


def whole(text):
    """v1 of a perplexity set: nothing separates a document from what is before it."""
    return text


def limited(task, num_documents):
    """The task of the first documents alone, which its source says."""
    more = len(task.documents) - num_documents
    if more <= 0:
        return task
    return task._replace(documents=task.documents[:num_documents], source=f"{task.source}, first {num_documents} documents",
                         left_out=task.left_out + collections.Counter({"documents after the limit": more}))


def check_label(label, num_rows, where):
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_rows:
        raise DataError(f"{where}: label {label!r} is not the index of one of its {num_rows} choices")


def check_metric(metric, kind, where):
    if metric not in METRICS[kind]:
        raise DataError(f"{where}: metric {metric} does not fit a task of kind {kind} ({', '.join(METRICS[kind])})")


def kind_of(numbers_of_rows):
    """The kind of a task whose documents have so many continuations, or None for a mixture."""
    if numbers_of_rows == {1}:
        return "gold"
    return "multiple_choice" if numbers_of_rows and 1 not in numbers_of_rows else None

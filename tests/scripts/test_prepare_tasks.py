"""scripts/prepare_tasks.py on JSON lines of one's own: the file format, lengths, what is shared, what is refused."""
import hashlib
import json
import os
import struct
import unittest

import numpy as np
import task_oracle
from prepare_case import PrepareCase

CHOICES = [
    {"id": "a", "context": "Two and two is", "choices": [" four", " five"], "label": 0},
    {"id": "b", "context": ["The cat, as", "The dog, as"], "choices": [" it barked"], "label": 1},
]
SHAPES = {
    "context_ids": ("int32", None), "context_bounds": ("int64", "contexts + 1"), "continuation_ids": ("int32", None),
    "continuation_bounds": ("int64", "continuations + 1"), "row_document": ("int64", "rows"),
    "row_choice": ("int64", "rows"), "row_context": ("int64", "rows"), "row_continuation": ("int64", "rows"),
    "row_domain": ("int64", "rows"), "row_chars": ("int64", "rows"), "row_bytes": ("int64", "rows"),
    "row_chars_v1": ("int64", "rows"), "row_bytes_v1": ("int64", "rows"), "document_label": ("int64", "documents"),
}


class FormatTest(PrepareCase):
    def test_tensors_of_the_format(self):
        self.main("--jsonl", self.write("mine.jsonl", CHOICES))
        tensors, _ = self.read("mine")
        sizes = {"contexts + 1": 4, "continuations + 1": 4, "rows": 4, "documents": 2}
        self.assertEqual(tensors.keys(), SHAPES.keys())
        for name, (dtype, length) in SHAPES.items():
            self.assertEqual(tensors[name].dtype.name, dtype, name)
            self.assertEqual(tensors[name].ndim, 1, name)
            if length:
                self.assertEqual(len(tensors[name]), sizes[length], name)
        for name in ("context", "continuation"):
            self.assertEqual(tensors[f"{name}_bounds"][[0, -1]].tolist(), [0, len(tensors[f"{name}_ids"])])
        self.assertEqual(tensors["row_document"].tolist(), [0, 0, 1, 1])
        self.assertEqual(tensors["row_choice"].tolist(), [0, 1, 0, 1])
        self.assertEqual(tensors["row_context"].tolist(), [0, 0, 1, 2])
        self.assertEqual(tensors["row_continuation"].tolist(), [0, 1, 2, 2])
        self.assertEqual(tensors["row_domain"].tolist(), [-1] * 4)
        self.assertEqual(tensors["document_label"].tolist(), [0, 1])

    def test_metadata(self):
        path = self.write("mine.jsonl", CHOICES)
        self.main("--jsonl", path, "--metric", "len_norm")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.assertEqual(self.read("mine")[1], {
            "format": "olmoe-task 1", "name": "mine", "kind": "multiple_choice", "metric": "len_norm",
            "tokenizer": "bytes", "vocab_size": "257", "source": f"mine.jsonl, sha256 {digest}",
            "prepared": "olmoe prepare_tasks 1"})

    def test_bytes_of_the_file(self):
        """Tensors are aligned to their elements and follow one another to the end of the file; runs are equal."""
        path = self.write("mine.jsonl", [*CHOICES, {"context": "odd", "choices": [" one", " two"], "label": 0}])
        self.main("--jsonl", path)
        tensors, _ = self.read("mine")
        num_ids = len(tensors["context_ids"]) + len(tensors["continuation_ids"])
        self.assertEqual(num_ids % 2, 1)  # so that elements of 8 bytes after them would be misaligned
        data = (self.out / "mine.safetensors").read_bytes()
        size, = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        end = 0
        del header["__metadata__"]
        for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
            self.assertEqual(entry["data_offsets"][0], end)
            self.assertEqual((8 + size + end) % (8 if entry["dtype"] == "I64" else 4), 0)
            end = entry["data_offsets"][1]
        self.assertEqual(8 + size + end, len(data))
        (self.out / "mine.safetensors").unlink()
        self.main("--jsonl", path)
        self.assertEqual((self.out / "mine.safetensors").read_bytes(), data)
        self.assertEqual(os.listdir(self.out), ["mine.safetensors"])

    def test_equal_sequences_are_stored_once(self):
        records = [{"context": "Say", "choices": [" A", " B"], "label": i % 2, "unconditional": "Say"} for i in range(5)]
        self.main("--jsonl", self.write("mine.jsonl", records))
        tensors, _ = self.read("mine")
        self.assertEqual(bytes(tensors["context_ids"].tolist()), b"Say")
        self.assertEqual(bytes(tensors["continuation_ids"].tolist()), b" A B")
        self.assertEqual(tensors["row_domain"].tolist(), [0] * 10)

    def test_lengths_in_characters_and_bytes(self):
        """v1 is without the space that separates, which is all of the first character's length there is."""
        texts = [" caf\u00e9", "\u00e9t\u00e9", "  two", "\U0001f600"]
        self.main("--jsonl", self.write("mine.jsonl", [{"context": "?", "choices": texts, "label": 0}]))
        tensors, _ = self.read("mine")
        self.assertEqual(tensors["row_chars"].tolist(), [5, 3, 5, 1])
        self.assertEqual(tensors["row_bytes"].tolist(), [6, 5, 5, 4])
        self.assertEqual(tensors["row_chars_v1"].tolist(), [4, 3, 4, 1])
        self.assertEqual(tensors["row_bytes_v1"].tolist(), [5, 5, 4, 4])


class SourcesTest(PrepareCase):
    def test_contexts_that_differ_and_one_continuation(self):
        self.main("--jsonl", self.write("mine.jsonl", CHOICES))
        self.assertEqual(self.documents_of("mine"), [
            (0, [("Two and two is", " four", None), ("Two and two is", " five", None)]),
            (1, [("The cat, as", " it barked", None), ("The dog, as", " it barked", None)])])

    def test_unconditional_contexts(self):
        records = [{**CHOICES[0], "unconditional": "Answer:"}, {**CHOICES[1], "unconditional": ["cat", "dog"]}]
        self.main("--jsonl", self.write("mine.jsonl", records), "--metric", "pmi_dc")
        rows = [row[2] for _, rows in self.documents_of("mine") for row in rows]
        self.assertEqual(rows, ["Answer:", "Answer:", "cat", "dog"])

    def test_single_continuations_are_gold(self):
        records = [{"context": f"{i} + 1 =", "choices": [f" {i + 1}"]} for i in range(3)]
        self.main("--jsonl", self.write("sums.jsonl.gz", records))
        metadata = self.read("sums")[1]
        self.assertEqual((metadata["kind"], metadata["metric"]), ("gold", "bpb"))
        self.assertEqual(self.documents_of("sums")[2], (0, [("2 + 1 =", " 3", None)]))

    def test_a_perplexity_set(self):
        records = [{"text": " One text."}, {"text": " \n"}, "\n", {"id": 7, "text": "caf\u00e9"}]
        printed = self.main("--jsonl", self.write("wiki.jsonl", records), "--first-id", "256")
        tensors, metadata = self.read("wiki")
        self.assertEqual([metadata[key] for key in ("kind", "metric", "first_id")], ["documents", "perplexity", "256"])
        self.assertEqual(self.documents_of("wiki"), [(0, [("", " One text.", None)]), (0, [("", "caf\u00e9", None)])])
        self.assertEqual(tensors["context_bounds"].tolist(), [0, 0])
        self.assertEqual([tensors[f"row_{name}"].tolist() for name in ("chars", "bytes", "chars_v1", "bytes_v1")],
                         [[10, 4], [10, 5], [10, 4], [10, 5]])
        self.assertIn("left out: 1 empty documents", printed)

    def test_texts_of_one_token(self):
        """Nothing predicts their token, unless a first id does."""
        path = self.write("wiki.jsonl", [{"text": "a"}, {"text": "ab"}, {"text": "c"}])
        printed = self.main("--jsonl", path)
        self.assertEqual(self.documents_of("wiki"), [(0, [("", "ab", None)])])
        self.assertEqual(bytes(self.read("wiki")[0]["continuation_ids"].tolist()), b"ab")
        self.assertIn("wiki: 1 documents, 1 rows, 1 query tokens, the longest 1, left out: 2 texts of one token", printed)
        (self.out / "wiki.safetensors").unlink()
        self.main("--jsonl", path, "--first-id", "256")
        self.assertEqual(len(self.documents_of("wiki")), 3)
        (self.out / "wiki.safetensors").unlink()
        self.assert_refused("wiki: holds no documents", "--jsonl", self.write("wiki.jsonl", [{"text": "a"}]))

    def test_repeated_documents_are_left_out_and_counted(self):
        printed = self.main("--jsonl", self.write("mine.jsonl", [*CHOICES, CHOICES[0]]))
        self.assertEqual(len(self.documents_of("mine")), 2)
        self.assertIn("mine: 2 documents, 4 rows, ", printed)
        self.assertIn("left out: 1 repeated documents", printed)

    def test_the_first_documents_alone(self):
        path = self.write("mine.jsonl", [*CHOICES, CHOICES[0]])
        printed = self.main("--jsonl", path, "--limit", "1")
        self.assertEqual([label for label, _ in self.documents_of("mine")], [0])
        self.assertTrue(self.read("mine")[1]["source"].endswith(", first 1 documents"))
        self.assertIn("left out: 1 documents after the limit, left out: 1 repeated documents", printed)
        (self.out / "mine.safetensors").unlink()
        self.main("--jsonl", path, "--limit", "2")
        self.assertNotIn("first", self.read("mine")[1]["source"])

    def test_several_files_and_a_name(self):
        self.main("--jsonl", self.write("a.jsonl", CHOICES), "--jsonl", self.write("b.jsonl", CHOICES))
        self.main("--jsonl", self.write("a.jsonl", CHOICES), "--name", "c.1")
        self.assertEqual(sorted(os.listdir(self.out)), [f"{name}.safetensors" for name in ("a", "b", "c.1")])
        self.assertEqual(self.read("c.1")[1]["name"], "c.1")

    def test_rows_that_a_scorer_would_cut_are_counted(self):
        records = [{"context": "x" * 20, "choices": [" yes", " no"], "label": 0},
                   {"context": "x", "choices": [" " + "y" * 11, "no"], "label": 0}]
        printed = self.main("--jsonl", self.write("mine.jsonl", records), "--context", "10")
        self.assertEqual(printed, "mine: 2 documents, 4 rows, 32 query tokens, the longest 23, 3 rows cut to 10, "
                         "1 continuations do not fit 10: a scorer refuses the file there, "
                         "1 continuations start without a space\n")

    def test_queries_that_just_fit(self):
        """Ten tokens of context and continuation without its last, and a continuation of ten tokens."""
        records = [{"context": "x", "choices": [" " + "y" * 9], "label": 0}, {"context": "abcdefg", "choices": [" xyz"]}]
        printed = self.main("--jsonl", self.write("mine.jsonl", records), "--context", "10")
        self.assertEqual(printed, "mine: 2 documents, 2 rows, 20 query tokens, the longest 10\n")

    def test_queries_of_a_file(self):
        """What the oracle makes of rows: the cut is from the left, and the continuation keeps its place."""
        self.main("--jsonl", self.write("mine.jsonl", [{"context": "abcdefgh", "choices": [" xyz", " x"], "label": 0}]))
        tensors, _ = self.read("mine")
        for length, row, query, context_tokens in ((6, 0, b"fgh xy", 3), (6, 1, b"defgh ", 5), (40, 0, b"abcdefgh xy", 8)):
            found = task_oracle.query_of(tensors, row, length)
            self.assertEqual((bytes(found[0].tolist()), found[1]), (query, context_tokens))


class OracleTest(PrepareCase):
    """The oracle itself, on hand-made values; compare_olmo_eval.py compares it with the package's metric code."""

    def test_formula_logits(self):
        logits = task_oracle.formula_logits(np.array([5, 7]), np.array([0, 3]))
        self.assertEqual(logits.dtype, np.float32)
        self.assertEqual(logits.shape, (2, 50304))
        for row, (number, position) in enumerate(((5, 0), (7, 3))):
            for v in (0, 1, 50303):
                residue = (7919 * number + 104729 * v + 1299709 * position) % 1000003
                self.assertEqual(logits[row, v], np.float32(residue / 1000003 * 8 - 4))

    def test_results(self):
        tensors = {"row_document": np.array([0, 0, 1, 1]), "document_label": np.array([1, 0]),
                   "row_chars": np.array([2, 10, 4, 2]), "row_bytes": np.array([2, 10, 4, 2]),
                   "row_chars_v1": np.array([1, 9, 3, 1]), "row_bytes_v1": np.array([1, 9, 3, 1])}
        scores = np.array([-4.0, -9.0, -4.0, -2.0])
        found = task_oracle.results(tensors, "acc", scores, "v2")
        self.assertEqual((found["right"], found["ce_loss"]), (0, (0.9 + 1.0) / 2))
        self.assertAlmostEqual(found["soft_log"], (-5 - np.log1p(np.exp(-5)) - 2 - np.log1p(np.exp(-2))) / 2)
        self.assertEqual(task_oracle.results(tensors, "len_norm", scores, "v2")["right"], 2)  # a tie: the first
        found = task_oracle.results(tensors, "len_norm", scores, "v1")
        self.assertEqual((found["right"], found["ce_loss"]), (2, (1 + 4 / 3) / 2))
        self.assertEqual(task_oracle.results(tensors, "f1", scores, "v2"), {"f1": 0.0})
        self.assertAlmostEqual(task_oracle.results(tensors, "bpb", scores, "v2")["bpb"], 0.95 / np.log(2))


if __name__ == "__main__":
    unittest.main()

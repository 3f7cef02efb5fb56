"""scripts/prepare_tasks.py with a tokenizer.json. Needs the package `tokenizers`; builds a small tokenizer itself."""
import hashlib
import unittest

import tokenizers
from prepare_case import PrepareCase
from tokenizers import models, pre_tokenizers

WORDS = {"say": 0, "yes": 1, "no": 2}
END = "<|endoftext|>"


class TokenizerTest(PrepareCase):
    def setUp(self):
        super().setUp()
        self.tokenizer = self.folder / "tokenizer.json"
        self.make_tokenizer(unknown=END)

    def make_tokenizer(self, unknown):
        tokenizer = tokenizers.Tokenizer(models.WordLevel({**WORDS, END: 70123}, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens([END])
        tokenizer.enable_truncation(2)  # a tokenizer made for a model's input length must not cut contexts
        tokenizer.enable_padding(length=8)
        tokenizer.save(str(self.tokenizer))

    def prepare(self, *records, arguments=()):
        path = self.write("mine.jsonl", records)
        return self.main("--jsonl", path, "--tokenizer", self.tokenizer, *arguments)

    def test_ids_and_what_the_file_says_of_its_tokenizer(self):
        self.prepare({"context": "say yes say no say", "choices": [" yes", " no no"], "label": 0},
                     {"context": "say  yes say no  say", "choices": ["yes", f" {END}"], "label": 1})
        tensors, metadata = self.read("mine")
        self.assertEqual(tensors["context_ids"].tolist(), [0, 1, 0, 2, 0])  # of both: their ids are the same
        self.assertEqual(tensors["row_context"].tolist(), [0, 0, 0, 0])
        self.assertEqual(tensors["continuation_ids"].tolist(), [1, 2, 2, 70123])
        self.assertEqual(tensors["row_continuation"].tolist(), [0, 1, 0, 2])
        self.assertEqual(tensors["row_chars"].tolist(), [4, 6, 3, 14])
        self.assertEqual(metadata["tokenizer"], hashlib.sha256(self.tokenizer.read_bytes()).hexdigest())
        self.assertEqual(metadata["vocab_size"], "70124")

    def test_the_first_id_of_a_perplexity_set(self):
        self.prepare({"text": "yes no"}, arguments=("--first-id", "70123"))
        self.assertEqual(self.read("mine")[1]["first_id"], "70123")

    def test_texts_without_ids(self):
        path = self.write("mine.jsonl", [{"context": "say", "choices": [" \n", " no"], "label": 0}])
        self.assert_refused("mine.jsonl:1: choice 0: its continuation is empty", "--jsonl", path, "--tokenizer",
                            self.tokenizer)

    def test_a_text_that_the_tokenizer_cannot_encode(self):
        self.make_tokenizer(unknown="[UNK]")
        path = self.write("mine.jsonl", [{"context": "say", "choices": [" yes", " maybe"], "label": 0}])
        self.assert_refused("mine.jsonl:1: choice 1: the tokenizer cannot encode it: WordLevel error", "--jsonl", path,
                            "--tokenizer", self.tokenizer)


if __name__ == "__main__":
    unittest.main()

"""scripts/tokenize.py with a tokenizer.json. Needs the package `tokenizers`; builds a small tokenizer itself."""
import array
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tokenize.py"
WORDS = {"one": 0, "two": 1, "three": 2}
END = "<|endoftext|>"


def make_tokenizer(path, words, end_id):
    tokenizer = tokenizers.Tokenizer(models.WordLevel({**words, END: end_id}, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([END])
    tokenizer.enable_truncation(2)  # a tokenizer made for a model's input length must not cut documents
    tokenizer.save(str(path))


class TokenizeJsonTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="olmoe_tokenize_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.tokenizer = self.folder / "tokenizer.json"
        make_tokenizer(self.tokenizer, WORDS, 3)

    def run_script(self, texts, *arguments):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (self.folder / "a.jsonl").write_text("".join(lines))
        command = [sys.executable, SCRIPT, "a.jsonl", "--tokenizer", self.tokenizer, "--output", "out", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def ids_of(self, type_code="H"):
        ids = array.array(type_code)
        ids.frombytes((self.folder / "out.npy").read_bytes())
        return ids.tolist()

    def test_whole_documents_each_with_one_end(self):
        for processes in ("1", "2"):
            done = self.run_script(["one two three two", f"three {END}", f"one {END} two"], "--processes", processes)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.ids_of(), [0, 1, 2, 1, 3, 2, 3, 0, 3, 1, 3])
            (self.folder / "out.npy").unlink()

    def test_ids_that_do_not_fit_are_refused(self):
        make_tokenizer(self.tokenizer, WORDS, 70123)
        done = self.run_script(["one"])
        self.assertEqual(done.returncode, 3)
        self.assertIn("ids up to 70123 do not fit uint16; use --dtype uint32", done.stderr)
        done = self.run_script(["one"], "--dtype", "uint32")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.ids_of("I"), [0, 70123])

    def test_the_largest_uint16_fits(self):
        make_tokenizer(self.tokenizer, WORDS, 65535)
        self.assertEqual(self.run_script(["one"]).returncode, 0)
        self.assertEqual(self.ids_of(), [0, 65535])

    def test_a_tokenizer_without_the_end_of_text_is_refused(self):
        done = self.run_script(["one"], "--eos-token", "</s>")
        self.assertEqual(done.returncode, 3)
        self.assertIn("has no token '</s>'; name its end of text with --eos-token", done.stderr)

    def test_a_file_that_is_no_tokenizer_is_refused(self):
        self.tokenizer.write_text("{}")
        done = self.run_script(["one"])
        self.assertEqual(done.returncode, 3)
        self.assertIn("tokenizer.json: not a tokenizer: ", done.stderr)


if __name__ == "__main__":
    unittest.main()

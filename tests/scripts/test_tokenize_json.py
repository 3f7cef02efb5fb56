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
PAD = "<|pad|>"


def make_tokenizer(path, words, end_id, unknown=END):
    tokenizer = tokenizers.Tokenizer(models.WordLevel({**words, END: end_id}, unk_token=unknown))
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

    def test_control_tokens_inside_texts_are_counted(self):
        make_tokenizer(self.tokenizer, {**WORDS, PAD: 4}, 3)
        tokenizer = tokenizers.Tokenizer.from_file(str(self.tokenizer))
        tokenizer.add_special_tokens([PAD])
        tokenizer.save(str(self.tokenizer))
        texts = [f"one {PAD} two", f"{END}one{END}", "three"]
        for processes in ("1", "2"):
            done = self.run_script(texts, "--processes", processes)
            self.assertEqual(self.ids_of(), [0, 4, 1, 3, 3, 0, 3, 2, 3])
            self.assertIn("control tokens inside texts: 3 (<|endoftext|> 2, <|pad|> 1)", done.stdout)
            (self.folder / "out.npy").unlink()
        self.assertIn("control tokens inside texts: 0\n", self.run_script(["one"]).stdout)

    def test_control_tokens_become_plain_text_on_demand(self):
        plain = {**WORDS, "<": 5, "|": 6, ">": 7, "endoftext": 8}
        tokenizer = tokenizers.Tokenizer(models.WordLevel({**plain, END: 3}, unk_token=END))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        tokenizer.add_special_tokens([END])
        tokenizer.save(str(self.tokenizer))
        for processes in ("1", "2"):
            done = self.run_script([f"one {END} two"], "--encode-special-tokens", "--processes", processes)
            self.assertEqual(self.ids_of(), [0, 5, 6, 8, 6, 7, 1, 3], done.stderr)
            self.assertIn("control tokens inside texts: 0", done.stdout)
            (self.folder / "out.npy").unlink()

    def test_a_text_that_the_tokenizer_cannot_encode_is_a_bad_line(self):
        make_tokenizer(self.tokenizer, WORDS, 3, unknown="[UNK]")
        for processes in ("1", "2"):
            done = self.run_script(["one", "four"], "--processes", processes)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn("a.jsonl:2: the tokenizer cannot encode it: WordLevel error", done.stderr)
            self.assertNotIn("Traceback", done.stderr)
        done = self.run_script(["one", "four", "two"], "--skip-bad-lines")
        self.assertEqual(self.ids_of(), [0, 3, 1, 3])
        self.assertIn("1 bad lines", done.stdout)

    def test_white_space_around_a_text_is_removed_on_demand(self):
        tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0, " ": 1, "\u3000": 2, END: 3}, unk_token=END))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.save(str(self.tokenizer))
        self.run_script([" a a\u3000", "\u3000"], "--strip")
        self.assertEqual(self.ids_of(), [0, 1, 0, 3])
        (self.folder / "out.npy").unlink()
        self.run_script([" a a\u3000", "\u3000"])
        self.assertEqual(self.ids_of(), [1, 0, 1, 0, 2, 3, 2, 3])

    def test_a_tokenizer_without_the_end_of_text_is_refused(self):
        done = self.run_script(["one"], "--eos-token", "</s>")
        self.assertEqual(done.returncode, 3)
        self.assertIn("has no token '</s>'; name its end of text with --eos-token", done.stderr)

    def test_a_file_that_is_no_tokenizer_is_refused(self):
        self.tokenizer.write_text("{}")
        done = self.run_script(["one"])
        self.assertEqual(done.returncode, 3)
        self.assertIn("tokenizer.json: not a tokenizer: ", done.stderr)
        self.tokenizer.unlink()
        done = self.run_script(["one"])
        self.assertEqual(done.returncode, 3)
        self.assertIn("tokenizer.json: no such file; --tokenizer takes `bytes` or a tokenizer.json", done.stderr)


if __name__ == "__main__":
    unittest.main()

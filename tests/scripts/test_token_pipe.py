"""scripts/token_pipe.py with a tokenizer of bytes of its own. Needs the package `tokenizers`."""
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "token_pipe.py"
END = "<|endoftext|>"


def make_tokenizer(path):
    """A token for each byte, and one for "ab"; returns the tokenizer."""
    vocabulary = {symbol: id for id, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(models.BPE({**vocabulary, "ab": 256}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.enable_truncation(2)
    tokenizer.save(str(path))
    tokenizer.no_truncation()
    return tokenizer


class TokenPipe(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.path = self.folder / "tokenizer.json"
        self.tokenizer = make_tokenizer(self.path)

    def answers(self, *requests, path=None, code=0, **environment):
        text = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run([sys.executable, SCRIPT, path or self.path], input=text, capture_output=True, text=True,
                              env=os.environ | environment)
        self.assertEqual(done.returncode, code, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_it_says_what_the_tokenizer_is_and_encodes_whole_texts(self):
        text = "abc caf\u00e9\n\u20ac"
        first, ids = self.answers({"encode": text})
        self.assertEqual(first, {"num_ids": 258, "end_id": 257})
        self.assertEqual(ids, {"ids": self.tokenizer.encode(text, add_special_tokens=False).ids})

    def test_texts_are_decoded_as_their_characters_become_whole(self):
        texts = ["na\u00efve \u20ac \U0001f600 ab", "\u00e9 and more"]
        ids = [self.tokenizer.encode(text).ids for text in texts]
        requests, order = [], []
        for step in range(max(map(len, ids))):  # both texts in turns
            for number in (0, 1):
                if step < len(ids[number]):
                    requests.append({"text": number, "id": ids[number][step]})
                    order.append(number)
        answers = self.answers(*requests, {"finish": 0}, {"finish": 1})[1:]
        parts = [[answer["decoded"] for answer, owner in zip(answers, order) if owner == number] for number in (0, 1)]
        self.assertEqual(["".join(part) for part in parts], texts)
        self.assertNotIn("\ufffd", "".join(parts[0] + parts[1]))
        self.assertEqual(parts[1][:2], ["", "\u00e9"])  # two bytes
        self.assertEqual([answer["decoded"] for answer in answers[-2:]], ["", ""])

    def test_what_was_held_back_comes_at_the_end_and_a_number_begins_anew(self):
        euro = self.tokenizer.encode("\u20ac").ids
        answers = self.answers({"text": 0, "id": euro[0]}, {"finish": 0}, {"text": 0, "id": euro[0]},
                               {"text": 0, "id": euro[1]}, {"text": 0, "id": euro[2]}, {"finish": 0}, {"finish": 3})
        self.assertEqual([answer["decoded"] for answer in answers[1:]], ["", "\ufffd", "", "", "\u20ac", "", ""])

    def test_what_cannot_be_is_said(self):
        (self.folder / "bad.json").write_text("{}")
        for path, said in ((self.folder / "bad.json", "not a tokenizer"), (self.folder / "absent.json", "no such file")):
            answer, = self.answers(path=path, code=3)
            self.assertIn(said, answer["error"])
        (self.folder / "tokenizers.py").write_text("raise ImportError('not here')\n")
        answer, = self.answers(code=3, PYTHONPATH=str(self.folder))
        self.assertIn("pip install tokenizers", answer["error"])


if __name__ == "__main__":
    unittest.main()

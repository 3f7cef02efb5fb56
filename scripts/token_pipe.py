#!/usr/bin/env python3
"""Encodes and decodes with a Hugging Face tokenizer.json for olmoe-generate, which starts it: lines of JSON in and out.

    scripts/token_pipe.py TOKENIZER.json

The first line says what the tokenizer is: {"num_ids": the largest id and 1, "end_id": that of <|endoftext|>, or null}.
Then each line is answered: {"encode": text} by {"ids": [...]}; {"text": n, "id": id}, the next id of text n, by
{"decoded": what it completes}; {"finish": n} by {"decoded": what was held back}. What goes wrong is {"error": message}.
"""
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module of that name.
FOLDER = __file__.rpartition("/")[0] or "."
sys.path[:] = [folder for folder in sys.path if folder != FOLDER]

import json
import signal

sys.path.append(FOLDER)

from script_errors import DataError
from text_tokenizers import load_tokenizer, text_ids

END = "<|endoftext|>"  # as scripts/tokenize.py has it by default
UNFINISHED = "\ufffd"  # what the package prints for bytes that are no whole character


class TextDecoder:
    """Decodes the ids of one text as they come. Ids since `begin` are decoded together: how one is printed may depend on
    those before it, such as a space at the start."""

    def __init__(self, decode):
        self.decode = decode
        self.ids, self.begin, self.printed = [], 0, 0

    def add(self, new_id, ended=False):
        """What can be printed after the next id, or with None after the last."""
        if new_id is not None:
            self.ids.append(new_id)
        before = self.decode(self.ids[self.begin:self.printed])
        now = self.decode(self.ids[self.begin:])
        if not ended and (len(now) <= len(before) or now.endswith(UNFINISHED)):
            return ""
        self.begin, self.printed = self.printed, len(self.ids)
        return now[len(before):]


class TokenPipe:
    def __init__(self, path):
        self.tokenizer = load_tokenizer(path)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.texts = {}

    def describe(self):
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        return {"num_ids": max(ids) + 1, "end_id": self.tokenizer.token_to_id(END)}

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def answer(self, request):
        if "encode" in request:
            return {"ids": text_ids(self.tokenizer, request["encode"])}
        if "finish" in request:
            text = self.texts.pop(request["finish"], None)
            return {"decoded": text.add(None, ended=True) if text else ""}
        return {"decoded": self.texts.setdefault(request["text"], TextDecoder(self.decode)).add(request["id"])}


def serve(path, requests, write):
    """Answers all lines; returns the exit code."""
    try:
        pipe = TokenPipe(path)
        write(pipe.describe())
    except DataError as error:
        write({"error": f"{error}; install it with: pip install tokenizers" if "package" in str(error) else str(error)})
        return 3
    for line in requests:
        try:
            write(pipe.answer(json.loads(line)))
        except ValueError as error:
            write({"error": str(error)})
    return 0


def main():
    if len(sys.argv) != 2:
        print("usage: scripts/token_pipe.py TOKENIZER.json", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the program that started this one ends it
    return serve(sys.argv[1], sys.stdin, lambda answer: print(json.dumps(answer), flush=True))


if __name__ == "__main__":
    sys.exit(main())

"""Ids of texts for task files: byte values as in the quickstart's token files, or a Hugging Face tokenizer.json."""
import hashlib

import numpy as np

from text_tokenizers import load_tokenizer, text_ids


class ByteIds:
    """Ids are byte values; 256, the end of a document, is not among those of a text."""

    name, vocab_size = "bytes", 257

    def ids_of(self, text):
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)


class JsonIds:
    """A tokenizer.json without truncation, padding and added tokens. The text of a control token becomes that token."""

    def __init__(self, path):
        self.tokenizer = load_tokenizer(path)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        with open(path, "rb") as file:
            self.name = hashlib.sha256(file.read()).hexdigest()
        self.vocab_size = 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def ids_of(self, text):
        """ValueError where the tokenizer cannot encode it."""
        text.encode("utf-8")  # half a surrogate pair is no text
        return np.array(text_ids(self.tokenizer, text), np.int32)


def make_ids(name):
    """By the value of --tokenizer: `bytes`, or the path of a tokenizer.json."""
    return ByteIds() if name == "bytes" else JsonIds(name)

"""The tokenizers of scripts/tokenize.py: byte values, or a Hugging Face tokenizer.json."""
import array
import collections
import os
import sys

from script_errors import DataError

ID_BYTES = {"uint16": 2, "uint32": 4}

# ids: of a document, little-endian, with its end; controls: Counter of the control tokens inside the text
Encoding = collections.namedtuple("Encoding", "ids controls")


class ByteTokenizer:
    """Ids are byte values; 256 ends a document. Takes any bytes, also such that are not UTF-8."""

    has_controls = False

    def __init__(self, id_bytes):
        self.id_bytes = id_bytes
        self.end = (256).to_bytes(id_bytes, "little")

    def encode(self, text):
        """Encoding of a document."""
        ids = bytearray(len(text) * self.id_bytes)
        ids[:: self.id_bytes] = text
        return Encoding(bytes(ids) + self.end, collections.Counter())


class JsonTokenizer:
    """A Hugging Face tokenizer.json, run by the `tokenizers` package."""

    has_controls = True

    def __init__(self, options):
        path, id_bytes = options.tokenizer, ID_BYTES[options.dtype]
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are ours to count
        self.tokenizer = load_tokenizer(path)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = options.encode_special_tokens
        self.end_id = self.tokenizer.token_to_id(options.eos_token)
        if self.end_id is None:
            raise DataError(f"{path}: has no token {options.eos_token!r}; name its end of text with --eos-token")
        added = self.tokenizer.get_added_tokens_decoder()
        self.controls = {id: token.content for id, token in added.items() if token.special}
        self.controls[self.end_id] = options.eos_token
        largest_id = max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        if largest_id >= 1 << (8 * id_bytes):
            raise DataError(f"{path}: ids up to {largest_id} do not fit {options.dtype}; use --dtype uint32")
        self.type_code = next(c for c in "HIL" if array.array(c).itemsize == id_bytes)

    def encode(self, text):
        """Encoding of a document; ValueError where the tokenizer cannot."""
        ids = self.ids_of(text.decode("utf-8"))
        controls = collections.Counter()
        if not self.controls.keys().isdisjoint(ids):
            controls.update(self.controls[id] for id in ids if id in self.controls)
        if not ids or ids[-1] != self.end_id:
            ids.append(self.end_id)
        packed = array.array(self.type_code, ids)
        if sys.byteorder == "big":
            packed.byteswap()
        return Encoding(packed.tobytes(), controls)

    def ids_of(self, text):
        return text_ids(self.tokenizer, text)


def text_ids(tokenizer, text):
    """Ids of a text by the package; ValueError where it cannot."""
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:  # the package raises bare Exception, and PanicException beside it
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer cannot encode it: {error}") from None


def load_tokenizer(path):
    try:
        import tokenizers
    except ImportError as error:
        raise DataError(f"{path} needs the Python package `tokenizers`: {error}") from None
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; --tokenizer takes `bytes` or a tokenizer.json of this machine")
    if not hasattr(tokenizers.Tokenizer, "encode_special_tokens"):
        raise DataError(f"{path} needs the Python package `tokenizers` 0.19 or newer, not {tokenizers.__version__}")
    try:
        return tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the package raises bare Exception
        raise DataError(f"{path}: not a tokenizer: {error}") from None


def make_tokenizer(options):
    """The tokenizer of the options; DataError if its ids do not fit the dtype."""
    if options.tokenizer == "bytes":
        return ByteTokenizer(ID_BYTES[options.dtype])
    return JsonTokenizer(options)

#!/usr/bin/env python3
"""Turns text into header-less token files, with a table of their documents beside each.

Inputs are JSON lines (.json, .jsonl: one object a line) or plain text (any other name: one document a
file), as they are or compressed (.gz, .zst), or folders of these, walked in order of name. Every document
ends with the end-of-text id; documents of white space alone are skipped; text is not changed otherwise.

Writes PREFIX.npy (little-endian ids, no header) and PREFIX.csv.gz with one row for each document: start, end
(exclusive), id, source, line; the first two in tokens. With --max-tokens-per-file: PREFIX-00000.npy, and so on.
The bytes written depend on the inputs and options alone, not on --processes. Nothing appears under its final
name before all is written.

  tokenize.py corpus.jsonl.gz notes/ --output tokens/notes --tokenizer bytes
  tokenize.py corpus.jsonl.zst --output tokens/web --tokenizer tokenizer.json --max-tokens-per-file 1000000000

Exit codes: 0 done, 2 wrong arguments, 3 bad data.
"""
import sys

# Python puts this folder first on its path, where this file would shadow the standard library's `tokenize`.
sys.path[:] = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]

import argparse
import array
import collections
import contextlib
import csv
import glob
import gzip
import io
import json
import os
import shutil
import subprocess
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path

CHUNK_BYTES = 4 << 20  # of lines handed to a process at once
ID_BYTES = {"uint16": 2, "uint32": 4}


class DataError(Exception):
    """Input that cannot be tokenized: what and where."""


class ByteTokenizer:
    """Ids are byte values; 256 ends a document. Takes any bytes, also such that are not UTF-8."""

    largest_id = 256

    def __init__(self, id_bytes):
        self.id_bytes = id_bytes
        self.end = (256).to_bytes(id_bytes, "little")

    def encode(self, text):
        """Little-endian ids of a document, with its end."""
        ids = bytearray(len(text) * self.id_bytes)
        ids[:: self.id_bytes] = text
        return bytes(ids) + self.end


class JsonTokenizer:
    """A Hugging Face tokenizer.json, run by the `tokenizers` package."""

    def __init__(self, path, end_token, id_bytes):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are ours to count
        try:
            import tokenizers
        except ImportError as error:
            raise DataError(f"{path} needs the Python package `tokenizers`: {error}") from None
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the package raises bare Exception
            raise DataError(f"{path}: not a tokenizer: {error}") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.end_id = self.tokenizer.token_to_id(end_token)
        if self.end_id is None:
            raise DataError(f"{path}: has no token {end_token!r}; name its end of text with --eos-token")
        self.largest_id = max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        self.type_code = next(c for c in "HIL" if array.array(c).itemsize == id_bytes)

    def encode(self, text):
        """Little-endian ids of a document, with its end."""
        ids = self.tokenizer.encode(text.decode("utf-8"), add_special_tokens=False).ids
        if not ids or ids[-1] != self.end_id:
            ids.append(self.end_id)
        packed = array.array(self.type_code, ids)
        if sys.byteorder == "big":
            packed.byteswap()
        return packed.tobytes()


def make_tokenizer(options):
    """The tokenizer of the options; DataError if its ids do not fit the dtype."""
    id_bytes = ID_BYTES[options.dtype]
    if options.tokenizer == "bytes":
        return ByteTokenizer(id_bytes)
    tokenizer = JsonTokenizer(options.tokenizer, options.eos_token, id_bytes)
    if tokenizer.largest_id >= 1 << (8 * id_bytes):
        ids = f"{options.tokenizer}: ids up to {tokenizer.largest_id}"
        raise DataError(f"{ids} do not fit {options.dtype}; use --dtype uint32")
    return tokenizer


# raw_bytes: read from disk so far
Chunk = collections.namedtuple("Chunk", "source is_json first_line lines raw_bytes")


def is_json(path):
    """Whether a file holds JSON lines, by its name without .gz or .zst."""
    name = path[: path.rindex(".")] if path.endswith((".gz", ".zst")) else path
    return name.endswith((".json", ".jsonl"))


def list_sources(inputs):
    """Files in the order of the inputs, folders walked in order of name."""
    sources = []
    for name in inputs:
        if os.path.isdir(name):
            sources += sorted(str(path) for path in Path(name).rglob("*") if path.is_file())
        elif os.path.isfile(name):
            sources.append(name)
        else:
            raise DataError(f"{name}: no such file or folder")
    if not sources:
        raise DataError("the folders given hold no files")
    return sources


@contextlib.contextmanager
def open_decompressed(path, raw):
    """A binary stream of what `raw`, the open file at `path`, holds."""
    if path.endswith(".gz"):
        with gzip.open(raw) as stream:
            yield stream
    elif path.endswith(".zst"):
        if shutil.which("zstd") is None:
            raise DataError(f"{path}: needs the program `zstd`; install it or decompress the file")
        with subprocess.Popen(["zstd", "-dcq"], stdin=raw, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            yield process.stdout
            message = process.stderr.read().decode(errors="replace").strip()
            if process.wait() != 0:
                raise DataError(f"{path}: damaged: {message}")
    else:
        yield raw


def read_chunks(path):
    """Chunks of a JSON lines file, or a text file as one chunk of one line."""
    with open(path, "rb") as raw:
        try:
            with open_decompressed(path, raw) as stream:
                line = 1
                while lines := stream.readlines(CHUNK_BYTES) if is_json(path) else [stream.read()]:
                    # The position is right for zstd too: its process shares our file offset.
                    yield Chunk(path, is_json(path), line, lines, os.lseek(raw.fileno(), 0, os.SEEK_CUR))
                    line += len(lines)
                    if not is_json(path):
                        break
        except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:
            raise DataError(f"{path}: damaged: {error}") from None


Document = collections.namedtuple("Document", "num_bytes id source line")
Encoded = collections.namedtuple("Encoded", "ids documents num_empty problems")


def document_of(chunk, line_number, line, options):
    """(id, text in bytes) of one line; ValueError says what is wrong with it."""
    if not chunk.is_json:
        return os.path.basename(chunk.source), line
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, not {type(record).__name__}")
    text = record.get(options.text_field)
    if not isinstance(text, str):
        raise ValueError(f"no string under {options.text_field!r}")
    return str(record.get("id", line_number)), text.encode("utf-8")


def encode_chunk(tokenizer, options, chunk):
    """All documents of a chunk, their ids one after the other."""
    ids, documents, problems, num_empty = [], [], [], 0
    for number, line in enumerate(chunk.lines, chunk.first_line):
        if chunk.is_json and not line.strip():
            continue
        try:
            name, text = document_of(chunk, number, line, options)
            if not text.strip():
                num_empty += 1
                continue
            ids.append(tokenizer.encode(text))
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
            problems.append(f"{chunk.source}:{number}: {error}")
            continue
        documents.append(Document(len(ids[-1]), name, chunk.source, number))
    return Encoded(b"".join(ids), documents, num_empty, problems)


process_state = {}


def start_process(options):
    process_state.update(tokenizer=make_tokenizer(options), options=options)


def encode_in_process(chunk):
    return encode_chunk(process_state["tokenizer"], process_state["options"], chunk)


def encode_all(tokenizer, options, chunks):
    """(chunk, Encoded) in the order of the chunks, a few of them under way at a time."""
    if options.processes == 1:
        for chunk in chunks:
            yield chunk, encode_chunk(tokenizer, options, chunk)
        return
    with ProcessPoolExecutor(options.processes, initializer=start_process, initargs=(options,)) as pool:
        under_way = collections.deque()
        try:
            for chunk in chunks:
                # Lines stay with the process: the parent needs no more than where they came from.
                under_way.append((chunk._replace(lines=None), pool.submit(encode_in_process, chunk)))
                if len(under_way) > 2 * options.processes:
                    first, future = under_way.popleft()
                    yield first, future.result()
            for first, future in under_way:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


class PartWriter:
    """Writes parts of at most max_tokens (None: one part) under temporary names; a document never crosses two."""

    def __init__(self, prefix, id_bytes, max_tokens):
        self.folder, self.name = os.path.split(prefix)
        self.id_bytes, self.max_tokens = id_bytes, max_tokens
        self.finished = []  # (temporary name, final name)
        self.num_tokens = self.num_documents = self.num_parts = self.part_tokens = 0
        self.files = None
        if not self.name:
            raise DataError(f"--output {prefix}: names a folder; add the beginning of a file name")
        os.makedirs(self.folder or ".", exist_ok=True)
        escaped = glob.escape(prefix)
        if old := sorted(glob.glob(f"{escaped}.npy") + glob.glob(f"{escaped}-[0-9]*.npy")):
            raise DataError(f"{old[0]}: already there; choose another --output or remove the old files")

    def write(self, encoded):
        first = 0
        for document in encoded.documents:
            num_tokens = document.num_bytes // self.id_bytes
            if self.max_tokens and num_tokens > self.max_tokens:
                where = f"{document.source}:{document.line}"
                raise DataError(f"{where}: {num_tokens} tokens, more than --max-tokens-per-file {self.max_tokens}")
            if self.files is None or (self.max_tokens and self.part_tokens + num_tokens > self.max_tokens):
                self.next_part()
            ids, table = self.files
            ids.write(encoded.ids[first : first + document.num_bytes])
            first += document.num_bytes
            end = self.part_tokens + num_tokens
            table.writerow([self.part_tokens, end, document.id, document.source, document.line])
            self.part_tokens = end
            self.num_tokens += num_tokens
            self.num_documents += 1

    def next_part(self):
        self.close_part()
        name = f"{self.name}-{self.num_parts:05d}" if self.max_tokens else self.name
        self.opened = contextlib.ExitStack()
        temporary = []
        for suffix in (".csv.gz", ".npy"):
            temporary.append(os.path.join(self.folder, f".{name}.{os.getpid()}{suffix}"))
            self.finished.append((temporary[-1], os.path.join(self.folder, name + suffix)))
        raw_table = self.opened.enter_context(open(temporary[0], "wb"))
        # No name and no time inside: the same documents give the same bytes.
        packed = self.opened.enter_context(gzip.GzipFile("", "wb", fileobj=raw_table, mtime=0))
        text = self.opened.enter_context(io.TextIOWrapper(packed, encoding="utf-8", newline=""))
        self.files = (self.opened.enter_context(open(temporary[1], "wb")), csv.writer(text))
        self.num_parts += 1
        self.part_tokens = 0

    def close_part(self):
        if self.files is not None:
            self.opened.close()
            self.files = None

    def publish(self):
        """Gives all parts their names, on disk before that."""
        self.close_part()
        for temporary, final in self.finished:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.rename(temporary, final)
        self.finished = []

    def discard(self):
        """Removes what was not published."""
        self.close_part()
        for temporary, _ in self.finished:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


class Progress:
    """A line on standard error: rewritten in place on a terminal, one every ten seconds elsewhere."""

    def __init__(self, sources):
        self.sizes = {source: os.path.getsize(source) for source in sources}
        self.total_bytes = sum(self.sizes[source] for source in sources)
        self.done_bytes, self.source_bytes, self.source = 0, 0, None
        self.start_s = self.shown_s = time.monotonic()
        self.on_terminal = sys.stderr.isatty()

    def update(self, chunk, writer):
        if chunk.first_line == 1 and self.source is not None:
            self.done_bytes += self.sizes[self.source]
        self.source, self.source_bytes = chunk.source, chunk.raw_bytes
        now_s = time.monotonic()
        if now_s - self.shown_s >= (0.5 if self.on_terminal else 10):
            self.shown_s = now_s
            self.show(writer.num_tokens, "\r" if self.on_terminal else "\n")

    def show(self, num_tokens, end):
        read = self.done_bytes + self.source_bytes
        share = read / max(self.total_bytes, 1)
        elapsed_s = max(time.monotonic() - self.start_s, 1e-9)
        bar = ("#" * int(20 * share)).ljust(20, ".")
        amounts = f"{read / 1e6:,.1f} MB  {read / 1e6 / elapsed_s:.1f} MB/s  {num_tokens:,} tokens"
        print(f"[{bar}] {share:4.0%}  {amounts} ", end=end, file=sys.stderr, flush=True)

    def finish(self, num_tokens):
        self.done_bytes, self.source_bytes = self.total_bytes, 0
        self.show(num_tokens, "\n")


def run(options):
    """Tokenizes all inputs; returns the summary."""
    tokenizer = make_tokenizer(options)
    sources = list_sources(options.inputs)
    writer = PartWriter(options.output, ID_BYTES[options.dtype], options.max_tokens_per_file)
    progress = Progress(sources)
    num_empty = num_bad = 0
    try:
        chunks = (chunk for source in sources for chunk in read_chunks(source))
        for chunk, encoded in encode_all(tokenizer, options, chunks):
            if encoded.problems and not options.skip_bad_lines:
                raise DataError(f"{encoded.problems[0]}; mend it or use --skip-bad-lines")
            for problem in encoded.problems:
                print(f"skipped {problem}", file=sys.stderr)
            num_bad += len(encoded.problems)
            num_empty += encoded.num_empty
            writer.write(encoded)
            progress.update(chunk, writer)
        if writer.num_documents == 0:
            raise DataError("the inputs hold no documents")
        writer.publish()
    finally:
        writer.discard()
    progress.finish(writer.num_tokens)
    return (
        f"{writer.num_tokens} tokens of {writer.num_documents} documents in {writer.num_parts} files; "
        f"skipped: {num_empty} empty documents, {num_bad} bad lines"
    )


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def parse_options(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="files and folders")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="names of the token files begin so")
    parser.add_argument("--tokenizer", required=True, help="`bytes` (256 ends a document) or a tokenizer.json")
    parser.add_argument("--eos-token", default="<|endoftext|>", help="end of text in a tokenizer.json (%(default)s)")
    parser.add_argument("--dtype", choices=ID_BYTES, default="uint16", help="type of a stored id (%(default)s)")
    parser.add_argument("--processes", type=positive, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--max-tokens-per-file", type=positive, metavar="N", help="cut the output (default: one file)")
    parser.add_argument("--text-field", default="text", help="key of the text in a JSON object (%(default)s)")
    parser.add_argument("--skip-bad-lines", action="store_true", help="count and report bad lines instead of stopping")
    return parser.parse_args(arguments)


def main(arguments=None):
    try:
        print(run(parse_options(arguments)))
    except (DataError, OSError, BrokenExecutor) as error:
        print(f"tokenize.py: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

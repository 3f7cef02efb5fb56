#!/usr/bin/env python3
"""Turns text into header-less token files, each with a table of its documents.

Inputs are JSON lines (.jsonl .ndjson .jsonlines .json: one object a line) or plain text (.txt .md .py and others: one
document a file; --text-suffix names more), as they are or compressed (.gz .bz2 .xz .zst), or folders of these, walked in
order of path, links included. Hidden names in folders are left out and counted. Files of another kind are refused by
name, or left out and counted with --skip-unknown-files. Every document ends with the end-of-text id; documents of
white space alone are skipped; a byte-order mark at the start of a file is no text; text is not changed otherwise.

Writes PREFIX.npy (little-endian ids, no header) and PREFIX.csv.gz with one row for each document: start, end
(exclusive), id, source, line; the first two in tokens. With --max-tokens-per-file: PREFIX-00000.npy, and so on.
The bytes written depend on the inputs and options alone, not on --processes. Nothing appears under its final
name before all is written; what a killed process left is removed by the next one with the same --output.

With a tokenizer.json, the text of a control token such as <|endoftext|> becomes that token, and the summary counts
them; --encode-special-tokens encodes it as plain text. --strip removes white space around a text, as `dolma tokens` does.

  tokenize.py corpus.jsonl.gz notes/ --output tokens/notes --tokenizer bytes
  tokenize.py corpus.jsonl.zst --output tokens/web --tokenizer tokenizer.json --max-tokens-per-file 1000000000

Exit codes: 0 done, 2 wrong arguments, 3 a file that cannot be used, read or written, 128 + number of a signal.
"""
import os
import sys

# Python puts this folder first on its path, where this file would shadow the standard library's `tokenize`: now last.
FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != FOLDER] + [FOLDER]

import script_errors

if __name__ == "__main__":
    script_errors.stop_on_signals("tokenize.py")

import argparse
import collections
import contextlib
import time
from concurrent.futures import BrokenExecutor

from document_encoder import encode_all
from script_errors import DataError
from text_files import list_files, num_repeated, read_chunks
from text_tokenizers import ID_BYTES, make_tokenizer
from token_writer import TokenWriter

MAX_PROCESSES = 512


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


class Skipped:
    """What did not become a document, and the control tokens inside those that did."""

    def __init__(self, skip_bad_lines):
        self.skip_bad_lines = skip_bad_lines
        self.num_empty = self.num_bad = 0
        self.controls = collections.Counter()

    def add(self, encoded):
        if encoded.problems and not self.skip_bad_lines:
            raise DataError(f"{encoded.problems[0]}; fix it or use --skip-bad-lines")
        for problem in encoded.problems:
            print(f"skipped {problem}", file=sys.stderr)
        self.num_bad += len(encoded.problems)
        self.num_empty += encoded.num_empty
        self.controls.update(encoded.controls)


def write_tokens(options, tokenizer, files, writer):
    """Tokenizes all files and publishes what is written; returns Skipped."""
    skipped = Skipped(options.skip_bad_lines)
    try:
        progress = Progress([file.path for file in files])
        # Closed on the way out, which ends the program that decompresses.
        with contextlib.closing(chunk for file in files for chunk in read_chunks(file)) as chunks:
            for chunk, encoded in encode_all(tokenizer, options, chunks):
                skipped.add(encoded)
                writer.write(encoded)
                progress.update(chunk, writer)
        if writer.num_documents == 0:
            raise DataError("the inputs hold no documents")
        writer.publish()
    except BrokenExecutor:
        raise DataError("a worker process was killed, as happens when memory runs out; use fewer --processes") from None
    finally:
        writer.discard()
    progress.finish(writer.num_tokens)
    return skipped


def summary_of(options, tokenizer, listing, writer, skipped):
    left_out = [f"{skipped.num_empty} empty documents", f"{skipped.num_bad} bad lines"]
    left_out += [f"{len(listing.unknown)} files of unknown kind"] if options.skip_unknown_files else []
    left_out += [f"{listing.num_hidden} hidden names"] if listing.num_hidden else []
    amounts = f"{writer.num_tokens} tokens of {writer.num_documents} documents in {writer.num_parts} files"
    summary = f"{amounts}; skipped: {', '.join(left_out)}"
    if not tokenizer.has_controls:
        return summary
    names = ", ".join(f"{name} {count}" for name, count in sorted(skipped.controls.items()))
    return f"{summary}; control tokens inside texts: {skipped.controls.total()}{f' ({names})' if names else ''}"


def run(options):
    """Tokenizes all inputs; returns the summary."""
    tokenizer = make_tokenizer(options)
    listing = list_files(options.inputs, options.text_suffix, options.skip_unknown_files)
    for path, problem in listing.unknown:
        print(f"skipped {path}: {problem}", file=sys.stderr)
    if repeated := num_repeated(listing.files):
        print(f"{repeated} files are read more than once, through a link or a name given twice", file=sys.stderr)
    writer = TokenWriter(options.output, ID_BYTES[options.dtype], options.max_tokens_per_file)
    if writer.num_leftovers:
        print(f"removed {writer.num_leftovers} temporary files of a process that was killed", file=sys.stderr)
    skipped = write_tokens(options, tokenizer, listing.files, writer)
    return summary_of(options, tokenizer, listing, writer, skipped)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def process_count(text):
    number = positive(text)
    if number > MAX_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_PROCESSES}")
    return number


def suffix(text):
    if text and not text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with a dot ('' is no suffix at all)")
    return text


def parse_options(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, cpus = parser.add_argument, len(os.sched_getaffinity(0))
    add("inputs", nargs="+", help="files and folders")
    add("--output", required=True, metavar="PREFIX", help="names of the token files begin so (PREFIX.npy is taken too)")
    add("--tokenizer", required=True, help="`bytes` (256 ends a document) or a tokenizer.json")
    add("--eos-token", default="<|endoftext|>", help="end of text in a tokenizer.json (%(default)s)")
    add("--dtype", choices=ID_BYTES, default="uint16", help="type of a stored id (%(default)s)")
    add("--processes", type=process_count, default=min(cpus, MAX_PROCESSES), help="(%(default)s)")
    add("--max-tokens-per-file", type=positive, metavar="N", help="cut the output (default: one file)")
    add("--text-field", default="text", help="key of the text in a JSON object (%(default)s)")
    add("--text-suffix", type=suffix, action="append", default=[], metavar=".SUFFIX",
        help="read files of this suffix as plain text too; '': those without one; may be repeated")
    add("--strip", action="store_true", help="remove white space around each text")
    add("--encode-special-tokens", action="store_true", help="encode the text of control tokens as plain text")
    add("--skip-bad-lines", action="store_true", help="count and report bad lines instead of stopping")
    add("--skip-unknown-files", action="store_true", help="count and report files of unknown kind instead of stopping")
    return parser.parse_args(arguments)


def main(arguments=None):
    print(run(parse_options(arguments)))
    return 0


if __name__ == "__main__":
    script_errors.run_script(main, "tokenize.py:", (DataError,), 3)

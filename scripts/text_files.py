"""The text files that scripts/tokenize.py reads: which of those named and found in folders, and what they hold."""
import bz2
import collections
import contextlib
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import zlib

from script_errors import DataError, signals_held

CHUNK_BYTES = 4 << 20  # of lines handed to a process at once
PACKED_BYTES = 1 << 16  # read at once of a bzip2 or xz file
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson", ".jsonlines")
TEXT_SUFFIXES = (
    ".txt .text .md .markdown .rst .tex .org .adoc .html .htm .xml .yaml .yml .toml .css .py .pyi .c .h .cc .cpp .cxx "
    ".hpp .hxx .cu .cuh .rs .go .java .kt .scala .js .ts .rb .pl .php .lua .r .jl .hs .ml .swift .sh .sql .cmake"
).split()
# How files begin that are no text, whatever their name says.
SIGNATURES = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "a zip archive",
    b"PAR1\x15": "Parquet",
    b"ARROW1\0\0": "Arrow",
    b"%PDF-": "PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x93NUMPY": "NumPy's format",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "a database",
    b"\xff\xfe": "UTF-16 (convert it with iconv -t UTF-8)",
    b"\xfe\xff": "UTF-16 (convert it with iconv -t UTF-8)",
    b"version https://git-lfs": "a Git LFS pointer (fetch the file with git lfs pull)",
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8; no part of the text
LISTED_PROBLEMS = 5

TextFile = collections.namedtuple("TextFile", "path is_json compression")
# raw_bytes: read from disk so far
Chunk = collections.namedtuple("Chunk", "source is_json first_line lines raw_bytes")


class Listing:
    """The files of the inputs in order, folders sorted by path, and what is left out and why."""

    def __init__(self, text_suffixes=()):
        self.text_suffixes = {*TEXT_SUFFIXES, *(suffix.lower() for suffix in text_suffixes)}
        self.files = []
        self.num_hidden = 0
        self.unknown = []  # (path, what it is)

    def add_input(self, path):
        if not os.path.isdir(path):
            self.add_file(path)
            return
        for file in sorted(self.found_in(path)):
            self.add_file(file)

    def found_in(self, top):
        """Paths of all that is no folder in `top` and below. Links are followed; hidden names are counted."""
        paths, folders = [], [(top, ())]
        while folders:
            folder, parents = folders.pop()
            info = os.stat(folder)
            identity = (info.st_dev, info.st_ino)
            if identity in parents:
                raise DataError(f"{folder}: is a link to a folder that contains it; remove the link")
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                raise DataError(f"{folder}: cannot be listed: {error.strerror}; give access, or name what to read") from None
            visible = [entry.path for entry in entries if not entry.name.startswith(".")]
            self.num_hidden += len(entries) - len(visible)
            for path in visible:
                if os.path.isdir(path):
                    folders.append((path, (*parents, identity)))
                else:
                    paths.append(path)
        return paths

    def add_file(self, path):
        check_name(path)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if not os.path.islink(path):
                problem = "no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror
                raise DataError(f"{path}: {problem}") from None
            self.unknown.append((path, f"a link to nothing: {error.strerror}"))
            return
        if not stat.S_ISREG(mode):
            self.unknown.append((path, "no regular file"))
            return
        is_json, compression, problem = self.kind_of(path)
        if problem:
            self.unknown.append((path, problem))
            return
        if not os.access(path, os.R_OK, effective_ids=True):
            raise DataError(f"{path}: cannot be read: permission denied")
        self.files.append(TextFile(path, is_json, compression))

    def kind_of(self, path):
        """(is_json, compression, None), or what is wrong with the name as the third."""
        stem, suffix = os.path.splitext(os.path.basename(path).lower())
        compression = suffix if suffix in COMPRESSIONS else ""
        if compression:
            stem, suffix = os.path.splitext(stem)
        if suffix in JSON_SUFFIXES:
            return True, compression, None
        if suffix not in self.text_suffixes:
            return False, compression, f"suffix {suffix!r}" if suffix else "no suffix"
        inner = os.path.splitext(stem)[1]
        if inner in JSON_SUFFIXES or inner in COMPRESSIONS:
            return False, compression, f"two kinds, {inner!r} and {suffix!r}"
        return False, compression, None


def check_name(path):
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{path!r}: the name is not UTF-8, so the table of documents cannot hold it; rename it") from None


def list_files(inputs, text_suffixes, skip_unknown):
    """The Listing of files and folders; DataError names what is unknown, unless it is to be skipped."""
    listing = Listing(text_suffixes)
    for path in inputs:
        listing.add_input(path)
    if listing.unknown and not skip_unknown:
        names = [f"{path} ({problem})" for path, problem in listing.unknown[:LISTED_PROBLEMS]]
        more = len(listing.unknown) - len(names)
        raise DataError(
            f"{len(listing.unknown)} files of unknown kind: {', '.join(names)}{f' and {more} more' if more else ''}; "
            "convert them to JSON lines or text, read more suffixes as text with --text-suffix, or use --skip-unknown-files"
        )
    if not listing.files:
        left_out = f"{listing.num_hidden} hidden names, {len(listing.unknown)} files of unknown kind"
        raise DataError(f"the folders given hold no files that can be read (left out: {left_out})")
    if any(file.compression == ".zst" for file in listing.files) and shutil.which("zstd") is None:
        path = next(file.path for file in listing.files if file.compression == ".zst")
        raise DataError(f"{path}: needs the program `zstd`; install it or decompress the file")
    return listing


def num_repeated(files):
    """How many of the files are read once more, by a link or a name given twice."""
    identities = {(info.st_dev, info.st_ino) for info in (os.stat(file.path) for file in files)}
    return len(files) - len(identities)


class Decompressed(io.RawIOBase):
    """What all streams of a bzip2 or xz file hold. Python's own readers ignore whatever follows the first stream."""

    def __init__(self, raw, make_decompressor):
        self.raw, self.make_decompressor = raw, make_decompressor
        self.decompressor, self.packed = make_decompressor(), b""

    def readable(self):
        return True

    def next_stream(self):
        """Whether another stream follows the one that ended. Zeros between them are xz's padding."""
        self.packed = self.decompressor.unused_data.lstrip(b"\0")
        while not self.packed:
            block = self.raw.read(PACKED_BYTES)
            if not block:
                return False
            self.packed = block.lstrip(b"\0")
        self.decompressor = self.make_decompressor()
        return True

    def readinto(self, buffer):
        data = b""
        while not data:
            if self.decompressor.eof and not self.next_stream():
                return 0
            if self.decompressor.needs_input and not self.packed:
                self.packed = self.raw.read(PACKED_BYTES)
                if not self.packed:
                    raise EOFError("the end is missing")
            data = self.decompressor.decompress(self.packed, len(buffer))
            self.packed = b""
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def output_of_zstd(path, raw):
    process = None
    try:
        with signals_held():
            process = subprocess.Popen(["zstd", "-dcq"], stdin=raw, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        yield process.stdout
        message = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise DataError(f"{path}: damaged: {message}")
    finally:
        if process is not None:
            process.kill()  # nothing where it has ended; else it may wait for a disk, and nobody for it
            process.wait()
            process.stdout.close()
            process.stderr.close()


@contextlib.contextmanager
def open_decompressed(file, raw):
    """A buffered binary stream of what `raw`, the open file, holds."""
    if file.compression == ".gz":
        with gzip.open(raw) as stream:
            yield stream
    elif file.compression in (".bz2", ".xz"):
        decompressor = bz2.BZ2Decompressor if file.compression == ".bz2" else lzma.LZMADecompressor
        yield io.BufferedReader(Decompressed(raw, decompressor), PACKED_BYTES)
    elif file.compression == ".zst":
        with output_of_zstd(file.path, raw) as stream:
            yield stream
    else:
        yield raw


def skip_mark(file, stream):
    """Passes over a byte-order mark; DataError where the stream begins like no text."""
    head = stream.peek(32)[:32]
    for signature, kind in SIGNATURES.items():
        if head.startswith(signature):
            raise DataError(f"{file.path}: is {kind}, not {'JSON lines' if file.is_json else 'text'} as its name says")
    if head.startswith(BYTE_ORDER_MARK):
        stream.read(len(BYTE_ORDER_MARK))


def chunks_of(file, stream, raw):
    line = 1
    while lines := stream.readlines(CHUNK_BYTES) if file.is_json else [stream.read()]:
        # The position is right for zstd too: its process shares our file offset.
        yield Chunk(file.path, file.is_json, line, lines, os.lseek(raw.fileno(), 0, os.SEEK_CUR))
        line += len(lines)
        if not file.is_json:
            break


def read_chunks(file):
    """Chunks of a JSON lines file, or a text file as one chunk of one line."""
    with open(file.path, "rb") as raw:
        before = os.fstat(raw.fileno())
        try:
            with open_decompressed(file, raw) as stream:
                skip_mark(file, stream)
                yield from chunks_of(file, stream, raw)
        except MemoryError:
            raise DataError(f"{file.path}: a document or line of it does not fit into memory") from None
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{file.path}: damaged: {error}") from None
        except OSError as error:
            if error.errno is not None:
                raise DataError(f"{file.path}: cannot be read: {error.strerror}") from None
            raise DataError(f"{file.path}: damaged: {error}") from None  # gzip and bzip2 raise it bare
        after = os.fstat(raw.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError(f"{file.path}: changed while it was read; tokenize again when it is complete")

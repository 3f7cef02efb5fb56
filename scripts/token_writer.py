"""Writes token files and the tables of their documents. Nothing has its final name before all is written.

A table is PREFIX.csv.gz: a row `start,end,id,source,line` for each document, in tokens, ends exclusive. Rows follow one
another without a gap from 0, so that the last end is the number of tokens in PREFIX.npy, whose size divided by it is
the width of an id.
"""
import contextlib
import csv
import errno
import fcntl
import glob
import gzip
import io
import os
import re
import sys

from script_errors import DataError, signals_held

MAX_PARTS = 100_000  # five digits in their names
MAX_NAME_BYTES = 255  # of Linux's file systems


class TokenWriter:
    """Writes parts of at most max_tokens (None: one part) under temporary names; a document never crosses two."""

    def __init__(self, prefix, id_bytes, max_tokens):
        self.prefix = prefix.removesuffix(".npy")
        self.folder, self.name = os.path.split(self.prefix)
        self.id_bytes, self.max_tokens = id_bytes, max_tokens
        self.num_tokens = self.num_documents = self.num_parts = self.part_tokens = 0
        self.temporary = []  # (path, final path)
        self.opened = contextlib.ExitStack()
        self.files = None
        self.check_prefix(prefix)
        with self.explained():
            os.makedirs(self.folder or ".", exist_ok=True)
            self.lock = OutputLock(os.path.join(self.folder, f".{self.name}.lock"))
        try:
            self.num_leftovers = self.remove_leftovers()
            self.check_old()
        except BaseException:
            self.lock.release()
            raise

    def check_old(self):
        escaped = glob.escape(self.prefix)
        if old := sorted(glob.glob(f"{escaped}.npy") + glob.glob(f"{escaped}-[0-9]*.npy")):
            raise DataError(f"{old[0]}: already there; choose another --output or remove the old files")

    def check_prefix(self, prefix):
        """Configs and lists of files must be able to name what is written."""
        if not self.name:
            raise DataError(f"--output {prefix}: names a folder; add the beginning of a file name")
        if not prefix.isprintable() or prefix != prefix.strip() or prefix.startswith("#"):
            raise DataError(f"--output {prefix!r}: a list of token files could not hold this name; choose another")
        name = f"{self.name}-{MAX_PARTS - 1}" if self.max_tokens else self.name
        longest = len(os.path.basename(self.temporary_path(name, ".csv.gz")).encode())
        if longest > MAX_NAME_BYTES:
            raise DataError(f"--output {prefix}: too long by {longest - MAX_NAME_BYTES} bytes for the files' names")

    @contextlib.contextmanager
    def explained(self):
        """OSErrors of writing say where, and what becomes of it."""
        try:
            yield
        except OSError as error:
            advice = "no token file was made; free space or choose another --output"
            raise DataError(f"{self.prefix}: cannot be written: {error.strerror}; {advice}") from None

    def temporary_path(self, name, suffix):
        return os.path.join(self.folder, f".{name}.{os.getpid()}{suffix}")

    def remove_leftovers(self):
        """Removes the temporary files of processes that were killed. Returns their number."""
        if not self.lock.held:
            return 0
        pattern = re.compile(rf"\.{re.escape(self.name)}(-[0-9]+)?\.[0-9]+(\.csv\.gz|\.npy)")
        found = [entry.path for entry in os.scandir(self.folder or ".") if pattern.fullmatch(entry.name)]
        for path in found:
            os.remove(path)
        return len(found)

    def write(self, encoded):
        first = 0
        for document in encoded.documents:
            num_tokens = document.num_bytes // self.id_bytes
            if self.max_tokens and num_tokens > self.max_tokens:
                where = f"{document.source}:{document.line}"
                raise DataError(f"{where}: {num_tokens} tokens, more than --max-tokens-per-file {self.max_tokens}")
            with self.explained():
                self.write_document(document, num_tokens, encoded.ids[first : first + document.num_bytes])
            first += document.num_bytes

    def write_document(self, document, num_tokens, ids):
        if self.files is None or (self.max_tokens and self.part_tokens + num_tokens > self.max_tokens):
            self.next_part()
        file, table = self.files
        file.write(ids)
        end = self.part_tokens + num_tokens
        table.writerow([self.part_tokens, end, document.id, document.source, document.line])
        self.part_tokens = end
        self.num_tokens += num_tokens
        self.num_documents += 1

    def next_part(self):
        self.close_part()
        if self.num_parts == MAX_PARTS:
            raise DataError(f"{self.prefix}: more than {MAX_PARTS} files; raise --max-tokens-per-file")
        name = f"{self.name}-{self.num_parts:05d}" if self.max_tokens else self.name
        raw_table = self.open_temporary(name, ".csv.gz")
        ids = self.open_temporary(name, ".npy")
        # No name and no time inside: the same documents give the same bytes.
        packed = self.opened.enter_context(gzip.GzipFile("", "wb", fileobj=raw_table, mtime=0))
        text = self.opened.enter_context(io.TextIOWrapper(packed, encoding="utf-8", newline=""))
        self.files = (ids, csv.writer(text))
        self.num_parts += 1
        self.part_tokens = 0

    def open_temporary(self, name, suffix):
        path = self.temporary_path(name, suffix)
        self.temporary.append((path, os.path.join(self.folder, name + suffix)))
        return self.opened.enter_context(open(path, "wb"))

    def close_part(self):
        """Closes the files of a part; an error of writing what they still hold comes after that."""
        opened, self.opened, self.files = self.opened, contextlib.ExitStack(), None
        opened.close()

    def publish(self):
        """Gives all parts their names, on disk before that."""
        with self.explained():
            self.close_part()
            for temporary, final in self.temporary:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
            with signals_held():  # some parts without the others would look like all of them
                while self.temporary:
                    os.rename(*self.temporary[0])
                    self.temporary.pop(0)

    def discard(self):
        """Removes what was not published."""
        for temporary, _ in self.temporary:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
        with contextlib.suppress(OSError):  # a full disk once more: what is lost is removed already
            self.close_part()
        self.lock.release()


class OutputLock:
    """One process at a time writes a prefix. The lock ends with its process, however that ends; its file may stay."""

    def __init__(self, path):
        self.path, self.held = path, True
        self.file = open(path, "a+")
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise DataError(f"{path}: another process writes this --output; wait for it or choose another") from None
            print(f"{path}: no lock on this file system ({error.strerror}): no check for a second writer", file=sys.stderr)
            self.held = False
        if self.held and not self.is_at_path():
            raise DataError(f"{path}: another process ended just now; start again")

    def is_at_path(self):
        """Not where its last holder removed the file after it was opened here."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return False

    def release(self):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)
        self.file.close()

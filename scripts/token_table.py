"""Checks with the table of documents of a token file that the file is complete and its ids have the expected width."""
import csv
import gzip
import os
import zlib

from script_errors import DataError
from text_tokenizers import ID_BYTES


def table_path(path):
    return f"{path.removesuffix('.npy')}.csv.gz"


def tokens_in_table(path):
    """The last end in the table at `path`: how many tokens its file has."""
    end = "0"
    csv.field_size_limit(1 << 30)  # ids may be long
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                end = row[1]
        return int(end)
    except (EOFError, ValueError, IndexError, csv.Error, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a table of documents: {error}") from None


def check_table(path, dtype):
    """Raises DataError where a token file is not a whole number of ids, or has another number than its table says."""
    num_bytes, width = os.path.getsize(path), ID_BYTES[dtype]
    if num_bytes % width:
        raise DataError(f"{path}: {num_bytes} bytes are no whole number of {dtype} ids; it is cut short, or of another type")
    table = table_path(path)
    if os.path.exists(table) and (expected := tokens_in_table(table)) != num_bytes // width:
        found = f"{num_bytes // width} {dtype} ids, but {table} counts {expected}"
        raise DataError(f"{path}: {found}; it is of another type, cut short, or the table is of another file")

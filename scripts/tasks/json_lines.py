"""JSON objects, one a line, of files as they are or compressed."""
import json

from script_errors import DataError
from text_files import list_files, read_chunks


def read_json_lines(path):
    """Yields (file:line, object); empty lines are passed over."""
    file, = list_files([path], (), skip_unknown=False).files
    if not file.is_json:
        raise DataError(f"{path}: not JSON lines by its name (.jsonl, .jsonl.gz, ...)")
    for chunk in read_chunks(file):
        for number, line in enumerate(chunk.lines, chunk.first_line):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{where}: a JSON object is needed, not {type(record).__name__}")
            yield where, record

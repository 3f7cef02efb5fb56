"""Turns chunks of text files into the ids of their documents, in this process or in several."""
import collections
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

from script_errors import STOP_SIGNALS, DataError
from text_tokenizers import make_tokenizer

Document = collections.namedtuple("Document", "num_bytes id source line")
# ids: of all documents, one after the other; controls: Counter of the control tokens inside them
Encoded = collections.namedtuple("Encoded", "ids documents controls num_empty problems")


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
    name = record.get("id")
    if name is None:
        name = line_number
    if not isinstance(name, str):
        name = json.dumps(name, ensure_ascii=False)
    name.encode("utf-8")  # half a surrogate pair could not be written
    return name, text.encode("utf-8")


def encode_chunk(tokenizer, options, chunk):
    """All documents of a chunk."""
    ids, documents, controls, problems, num_empty = [], [], collections.Counter(), [], 0
    for number, line in enumerate(chunk.lines, chunk.first_line):
        if chunk.is_json and not line.strip():
            continue
        try:
            name, text = document_of(chunk, number, line, options)
            if options.strip:
                text = text.decode("utf-8").strip().encode("utf-8")
            if not text.strip():
                num_empty += 1
                continue
            encoding = tokenizer.encode(text)
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
            problems.append(f"{chunk.source}:{number}: {error}")
            continue
        ids.append(encoding.ids)
        controls.update(encoding.controls)
        documents.append(Document(len(encoding.ids), name, chunk.source, number))
    return Encoded(b"".join(ids), documents, controls, num_empty, problems)


process_state = {}


def start_process(options):
    # A terminal sends its signals to all processes: the parent is the one to answer.
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    process_state.update(tokenizer=make_tokenizer(options), options=options)


def end_with_parent():
    """Ends this process when its parent is gone, for whatever reason: it would wait for work forever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def encode_in_process(chunk):
    return encode_chunk(process_state["tokenizer"], process_state["options"], chunk)


def submit(pool, options, chunk):
    try:
        return pool.submit(encode_in_process, chunk)
    except OSError as error:
        for process in multiprocessing.active_children():  # the pool would wait for those that it did start
            process.kill()
        raise DataError(f"cannot start {options.processes} processes: {error.strerror}; use fewer --processes") from None


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
                under_way.append((chunk._replace(lines=None), submit(pool, options, chunk)))
                if len(under_way) > 2 * options.processes:
                    first, future = under_way.popleft()
                    yield first, future.result()
            for first, future in under_way:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

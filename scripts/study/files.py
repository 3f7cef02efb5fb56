"""Files of a study: written whole or not at all, and locks that a killed process cannot leave behind."""
import contextlib
import fcntl
import json
import os
import socket
import time

from study.yaml_reader import StudyError


def write_whole(path, content):
    """Replaces a file by text or bytes so that after a kill or a power failure it is the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def json_lines(value):
    """An object with a line for each of its keys, so that a change of the file shows what changed."""
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(one, separators=(',', ':'))}"
                              for key, one in value.items()) + "\n}\n"


def read_json(path):
    """An object, or None where there is no such file. Raises StudyError for other contents."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: {error}; remove it, or restore it") from None
    if not isinstance(value, dict):
        raise StudyError(f"{path}: not an object; remove it, or restore it")
    return value


def locked(file):
    """Locks an open file for this process and those that inherit it. False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_in_use(path):
    """Whether a process still has a file that it was started with as its output."""
    try:
        with open(path, "r+b") as file:
            return not locked(file)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def study_lock(folder):
    """Holds the folder of a study. Raises StudyError that names the process which has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.lock"
    with open(path, "a+", encoding="utf-8") as file:
        if not locked(file):
            file.seek(0)
            raise StudyError(f"{folder} is in use by {file.read().strip() or 'another olmoe-study'}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on host {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield  # the lock goes with the file, however the process ends; the file stays: two could lock two of one name

"""What the log of a run says: which programs trained it, and why it ended."""
import re

from study.programs import error_of

LOG_TAIL = 65536
KNOWN = 256  # bytes by which an earlier end of a log is known again: its last lines with their times
UNKNOWN = "unknown"
START = re.compile(r"\S+ \S+ info olmoe-train (\S+ \(.*\))$")
TRAINS = re.compile(r"\S+ \S+ info (new run in|resuming from) ")


def end_of(log):
    """(bytes of the log so far, the last of them), for last_error."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - KNOWN))
            return size, file.read()
    except FileNotFoundError:
        return 0, b""


def last_error(log, before):
    """What the log says after `before`, an earlier end_of, of why a run ended; all of a log that a batch system wrote anew."""
    try:
        size = log.stat().st_size
        with open(log, "rb") as file:
            begin, known = before
            file.seek(begin - len(known))
            begin = begin if begin < size and file.read(len(known)) == known else 0
            file.seek(max(begin, size - LOG_TAIL))
            return error_of(file.read().decode(errors="replace"))
    except FileNotFoundError:
        return "it has no log"


def versions_of(log):
    """Version and commit of the program that trained a run; of several that it was resumed with, all in their order. A run
    that began anew in the same log was trained by those that came after. UNKNOWN where the log names none."""
    version, found = None, []
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            for line in file:
                if start := START.match(line.rstrip()):
                    version = start[1]
                elif trains := TRAINS.match(line):
                    found = [] if trains[1] == "new run in" else found
                    if (version or UNKNOWN) not in found:
                        found.append(version or UNKNOWN)
    except FileNotFoundError:
        return UNKNOWN
    return ", ".join(found) or UNKNOWN

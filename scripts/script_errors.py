"""How a script ends that a user runs: on a signal or an error of the user or the disk with one line, never a traceback."""
import contextlib
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

hold = {"held": False, "pending": None}  # pending: number of the signal that came


class DataError(Exception):
    """Input or output that cannot be used: which file, what happened, what to do."""


class Stopped(SystemExit):
    """A signal came. The blocks on the way out remove temporary files; a second signal does not disturb them."""


def stop_on_signals(script):
    """Makes SIGINT, SIGTERM and SIGHUP raise Stopped. Comes before slow imports, which a signal may meet too."""
    received = []

    def stop(number, frame):
        received.append(number)
        if len(received) > 2:
            os._exit(128 + number)
        if len(received) == 1:
            os.write(2, f"{script}: stopped by {signal.Signals(number).name}\n".encode())
            hold["pending"] = number
            if not hold["held"]:
                raise Stopped(128 + number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, stop)


@contextlib.contextmanager
def signals_held():
    """Stopped waits until the block is done. No signal mask: another thread would take the signal."""
    hold["held"] = True
    try:
        yield
    finally:
        hold["held"] = False
        if hold["pending"] is not None:
            raise Stopped(128 + hold["pending"])


def drop_output():
    """What standard output still holds goes nowhere: its reader is gone or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_script(main, prefix, errors=(), error_code=1):
    """Calls main() and ends the process with what it returns; `errors`, OSError and MemoryError become one line."""
    try:
        code = main()
        sys.stdout.flush()
    except Stopped as stopped:
        # Without waiting for worker processes, which follow their parent.
        os._exit(stopped.code)
    except BrokenPipeError:
        drop_output()
        code = 128 + signal.SIGPIPE
    except MemoryError:
        print(f"{prefix} out of memory", file=sys.stderr)
        code = error_code
    except (OSError, *errors) as error:
        drop_output()
        print(f"{prefix} {error}", file=sys.stderr)
        code = error_code
    sys.exit(code)

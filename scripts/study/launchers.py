"""Starts one run and says when it has ended: a process of this machine, or a job of a batch system.

A process holds the lock of its log, a submission that of its job file, for as long as it lives: whoever looks at the lock
knows, also after olmoe-study itself was killed.
"""
import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass

from study.files import is_in_use, locked
from study.programs import REPOSITORY, as_arguments
from study.yaml_reader import StudyError

LEAVE_S = 120  # that a process has to save and leave
SUBMIT_S = 120
WELL = "COMPLETED"
# Slurm's words for jobs that do not run any more; any other word, and none, means that a job may still run.
ENDED = {WELL, "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"}
# After these Slurm itself may put a job back into the queue, and scripts/slurm.sbatch does after these exit codes; until
# then the old state is seen for a while.
REQUEUED_AFTER = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"}
REQUEUED_CODES = {71, 73, 75}
LOOKS = 5  # in which such a job has to be seen to have ended


@dataclass(frozen=True)
class Ended:
    """How a run ended, as far as it is known: an exit code, or the words of a batch system."""
    code: int | None = None
    text: str = ""

    def describe(self):
        parts = [self.text, describe_code(self.code) if self.code or not self.text else ""]
        return ", ".join(part for part in parts if part)


def describe_code(code):
    return f"exit code {code}" if code >= 0 else f"ended by signal {-code}"


def fill(words, fields, overrides):
    """The words of a command template with its placeholders replaced."""
    out = []
    for word in words:
        if word == "{overrides}":
            out += overrides
        else:
            out.append(re.sub(r"\{([a-z_]+)\}", lambda match: str(fields[match[1]]), word))
    return out


def fields_of(item, study, programs):
    return {"program": programs.program, "config": item.plan.run.config, "ranks": study.launch.ranks,
            "folder": item.folder, "run": item.plan.run.name, "seed": item.seed, "repository": REPOSITORY}


def command_of(item, study, programs, overrides):
    return fill(study.launch.command, fields_of(item, study, programs), as_arguments(overrides))


def open_log(path):
    """Opens a log to append, locked. Raises StudyError where a process still writes there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, "ab")
    for _ in range(20):  # `olmoe-study status` looks at the lock, too
        if locked(log):
            return log
        time.sleep(0.05)
    log.close()
    raise StudyError(f"{path} is in use by a process that was started before")


def run_command(command, path):
    """Runs a command to its end, its output in the log `path`. Returns its exit code."""
    with open_log(path) as log:
        return started(command, log).wait()


def started(command, log):
    """A process in a session of its own: a Ctrl-C is for olmoe-study, which asks its runs to save and leave."""
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                start_new_session=True)
    except OSError as error:
        raise StudyError(f"{command[0]}: cannot be started: {error.strerror}") from None


class Process:
    """A run that this olmoe-study started."""

    def __init__(self, command, path):
        with open_log(path) as log:
            self.process = started(command, log)

    def poll(self):
        code = self.process.poll()
        return None if code is None else Ended(code=code)

    def ask_to_leave(self):
        """As docs/failures.md has it: the step is finished and saved."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)

    def leave(self):
        """Waits for it, and ends it where that takes too long."""
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Orphan:
    """A run that an earlier olmoe-study started, which was killed. How it ends nobody is told."""

    def __init__(self, path):
        self.path = path

    def poll(self):
        return None if is_in_use(self.path) else Ended()


def read_state(text):
    """What `launch.status` printed, STATE or STATE|EXIT_CODE:SIGNAL, as Ended; None for a job that may still run. Raises
    StudyError for a state that is cut off."""
    state, _, codes = text.strip().partition("\n")[0].partition("|")
    word = state.split(" ")[0]  # CANCELLED by 1000
    if word.endswith("+"):
        raise StudyError(f"launch.status prints {state!r}, a state that is cut off: let it print all, as sacct -P does")
    if word not in ENDED:
        return None
    code = re.match(r"(\d+):(\d+)", codes)
    return Ended(text=word, code=code and (int(code[1]) or -int(code[2])))


class Job:
    """A job of a batch system."""

    def __init__(self, number, launch):
        self.number = number
        self.command = fill(launch.status, {"job": number}, [])
        self.poll_s, self.next_look, self.looks = launch.poll_s, 0.0, 0

    def poll(self):
        """None as long as the job may run: so does one whose state the batch system does not tell just now."""
        if time.monotonic() < self.next_look:
            return None
        self.next_look = time.monotonic() + self.poll_s
        try:
            done = subprocess.run(self.command, capture_output=True, text=True, errors="replace",
                                  stdin=subprocess.DEVNULL, timeout=SUBMIT_S)
        except subprocess.TimeoutExpired:
            return None
        except OSError as error:
            raise StudyError(f"{self.command[0]}: cannot be started: {error.strerror}") from None
        ended = read_state(done.stdout) if done.returncode == 0 else None
        self.looks = self.looks + 1 if ended else 0
        may_return = ended and (ended.text in REQUEUED_AFTER or ended.code in REQUEUED_CODES)
        return ended if not may_return or self.looks >= LOOKS else None


def submit(item, study, programs, overrides):
    """Submits a job and returns its id. The submission writes it to item.job_file by itself, so that it is known even if
    olmoe-study is killed meanwhile."""
    fields = fields_of(item, study, programs) | {
        "command": shlex.join(map(str, command_of(item, study, programs, overrides))), "log": item.log,
        "job_name": f"{study.name}-{item.plan.run.name}-{item.seed}"}
    command = fill(study.launch.submit, fields, as_arguments(overrides))
    item.job_file.parent.mkdir(parents=True, exist_ok=True)
    with open(item.job_file, "xb") as out, open(item.log, "ab") as log:
        locked(out)
        try:
            code = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True).wait()
        except OSError as error:
            item.job_file.unlink()
            raise StudyError(f"{command[0]}: cannot be started: {error.strerror}") from None
    if code != 0:
        item.job_file.unlink()
        return None
    return submitted(item)


def submitted(item):
    """The id of a job that was submitted, by an earlier olmoe-study too; None where none was. `sbatch --parsable` prints
    ID, or ID;CLUSTER."""
    deadline = time.monotonic() + SUBMIT_S
    while is_in_use(item.job_file):
        if time.monotonic() > deadline:
            raise StudyError(f"{item.job_file}: the command that submits the run has not ended for {SUBMIT_S} s")
        time.sleep(0.05)
    if not item.job_file.exists():
        return None
    words = item.job_file.read_text(encoding="utf-8", errors="replace").split()
    number = words[0].partition(";")[0] if words else ""
    if not number:
        raise StudyError(f"{item.job_file} is empty: whether the run was submitted is not known. Look for it in the queue; "
                         "write its job id into the file, or remove the file where it is not there")
    return number

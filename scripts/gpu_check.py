"""What scripts/gpu_check.sh starts in a bundle's folder: runs the parts of gpu_parts.py, each within its limit."""
import argparse
import fnmatch
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import gpu_parts
import gpu_report

MOST_SECONDS = 540
GRACE_S = 2   # from a part's limit to its death
PATIENCE = 4  # a rehearsal's limits are so many times longer: its machine may be busy with something else


class Budget:
    """Gives a part its own limit and what those before it left of theirs: one that hangs takes nothing from others."""

    def __init__(self, seconds, now=time.monotonic):
        self.now = now
        self.due = now()
        self.end = self.due + seconds

    def limit_s(self, part):
        self.due = min(self.due + part.limit_s + GRACE_S, self.end)
        return int(self.due - self.now()) - GRACE_S


@contextmanager
def memory_watched(log, wanted):
    """Yields what says, afterwards, how many bytes of the GPU all programs used at most, by a sample each 0.2 s."""
    if not wanted:
        yield lambda: None
        return
    with log.open("w") as sink:
        watcher = subprocess.Popen(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits",
                                    "--id=0", "--loop-ms=200"], stdout=sink, stderr=subprocess.DEVNULL)
        try:
            yield lambda: max((int(mib) << 20 for mib in log.read_text().split() if mib.isdigit()), default=None)
        finally:
            watcher.terminate()
            watcher.wait()


def status_of(part, rc, log):
    if rc in (124, 137):
        return "timed out"
    if rc and part.may_not_fit and gpu_report.ran_out_of_memory(log):
        return "out of memory"
    return "failed" if rc else "passed"


class Stopped(BaseException):
    """A signal that ends the check."""


def heed_signals():
    def stop(number, _):
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)  # the first one is enough, and the report is to be written
        raise Stopped(signal.Signals(number).name)
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(each, stop)


def exit_code_of(part, limit_s, sink):
    """Of a part's command, which also ends where this is stopped."""
    command = ["timeout", f"--kill-after={GRACE_S}", str(limit_s), *map(str, part.command)]
    process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    except BaseException:
        process.terminate()  # timeout hands it on
        process.wait()
        raise


def run(part, out, limit_s):
    """Runs one part and returns what the report keeps of it."""
    result = {"name": part.name, "needed": part.needed, "may_not_fit": part.may_not_fit, "limit_s": limit_s,
              "command": " ".join(map(str, part.command))}
    if part.missing or limit_s < 1:
        return result | {"status": "not run", "reason": part.missing or "the parts before it left it no time"}
    log = out / f"{part.name}.log"
    begin = time.monotonic()
    with log.open("w") as sink, memory_watched(out / f"{part.name}.memory", part.watch_memory) as used_bytes:
        rc = exit_code_of(part, limit_s, sink)
        result["used_bytes"] = used_bytes()
    status = status_of(part, rc, log)
    result |= {"status": status, "rc": rc, "seconds": round(time.monotonic() - begin, 2)}
    figures, why_not = gpu_report.attempt(part.figures, log, out / part.name)
    if why_not and status == "passed":
        result |= {"status": "failed", "reason": f"ended well, but left no figures: {why_not}"}
    return result | {"figures": gpu_report.last_lines(log, None) if why_not else figures}


def broken(name, reason):
    """What the report keeps of a part, or of what makes a group of them, that this script failed at."""
    return {"name": name, "needed": True, "status": "failed", "reason": reason}


class Check:
    """The parts that ran, in a report that is complete after each of them."""

    def __init__(self, machine, budget, only=()):
        self.machine, self.budget, self.only = machine, budget, only
        self.results, self.met, self.place = [], set(), "before the first part"
        self.write(f"it ended {self.place}")

    def write(self, unfinished=""):
        if self.only:
            unfinished = unfinished or "of " + " ".join(self.only) + " alone"
        return gpu_report.write(self.machine.out, self.results, self.machine.rehearse, unfinished)

    def add(self, result):
        self.results.append(result)
        print(f"   {result['name']}: {gpu_report.outcome(result)}", file=sys.stderr, flush=True)

    def wants(self, part):
        met = {pattern for pattern in self.only if fnmatch.fnmatchcase(part.name, pattern)}
        self.met |= met
        return bool(met) or not self.only

    def run_part(self, part):
        print(f"== {part.name}", file=sys.stderr, flush=True)
        self.place = f"in the part {part.name}"
        self.write(f"it ended {self.place}")
        limit_s = part.limit_s * PATIENCE if self.machine.rehearse else self.budget.limit_s(part)
        result, why_not = gpu_report.attempt(run, part, self.machine.out, limit_s)
        self.add(result or broken(part.name, why_not))

    def run_group(self, group):
        def each_part():
            for part in group(self.machine):
                if self.wants(part):
                    self.run_part(part)
        _, why_not = gpu_report.attempt(each_part)
        if why_not:
            self.add(broken(group.__name__, why_not))

    def run_all(self):
        """True for a "go"."""
        try:
            for group in gpu_parts.GROUPS:
                self.run_group(group)
        except Stopped as stopped:
            print(f"   stopped by {stopped}", file=sys.stderr, flush=True)
            return self.write(f"stopped by {stopped} {self.place}")
        for pattern in set(self.only) - self.met:
            self.add(broken(pattern, "no part has this name"))
        return self.write()


def new_folder(out):
    if (out / "report.json").exists():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        sys.exit(f"error: {out} is there and is no report")
    out.mkdir(parents=True, exist_ok=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART")
    parser.add_argument("report", nargs="?", type=Path)
    arguments = parser.parse_args()
    out = (arguments.report or Path("report_of_some" if arguments.only else "report")).resolve()
    machine, budget = gpu_parts.Machine(arguments.rehearse, out), Budget(MOST_SECONDS)
    # Nothing can run without what env.sh asks for, and it says what that is. A report of before stays.
    refused = subprocess.run(["timeout", str(gpu_parts.LOAD_S), *machine.env, "--check"]).returncode
    if refused == 124:
        print(f"error: olmoe-train --version took more than {gpu_parts.LOAD_S} s", file=sys.stderr)
    if refused:
        return refused
    new_folder(out)
    heed_signals()
    go = Check(machine, budget, arguments.only).run_all()
    print(f"{out / 'report.md'}", file=sys.stderr)
    return 0 if go else 1


if __name__ == "__main__":
    sys.exit(main())

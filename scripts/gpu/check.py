"""What scripts/gpu/check.sh starts in a bundle's folder: runs the parts of scripts/gpu/parts.py, each within its limit."""
import argparse
import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import parts
import report
from watch import Watch

CALL_S = 330  # of a call, all together
GRACE_S = 2   # from a part's limit to its death
PATIENCE = 4  # a rehearsal's limits are so many times longer: its machine may be busy with something else


class Budget:
    """Gives a part its own limit and what those before it left of theirs: one that hangs takes nothing from others."""

    def __init__(self, seconds, now=time.monotonic, before_s=0):
        """Of `seconds`, what comes before the first part may take `before_s`."""
        self.now = now
        self.due = now() + before_s
        self.end = now() + seconds

    def limit_s(self, part):
        self.due = min(self.due + part.limit_s + GRACE_S, self.end)
        return int(self.due - self.now()) - GRACE_S


def status_of(part, rc, log):
    if rc in (124, 137):
        return "timed out"
    if rc and part.may_not_fit and report.ran_out_of_memory(log):
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


def run(part, out, limit_s, watch):
    """Runs one part and returns what the report keeps of it, with what `watch` saw of the GPU meanwhile."""
    result = {"name": part.name, "needed": part.needed, "may_not_fit": part.may_not_fit, "limit_s": limit_s,
              "command": " ".join(map(str, part.command))}
    if part.missing or limit_s < 1:
        return result | {"status": "not run", "reason": part.missing or "the parts before it left it no time"}
    log = out / f"{part.name}.log"
    begin_s = time.time()
    with log.open("w") as sink:
        rc = exit_code_of(part, limit_s, sink)
    end_s = time.time()
    status = status_of(part, rc, log)
    result |= {"status": status, "rc": rc, "seconds": round(end_s - begin_s, 2), "gpu": watch.between(begin_s, end_s)}
    figures, why_not = report.attempt(part.figures, log, out / part.name)
    if why_not and status == "passed":
        result |= {"status": "failed", "reason": f"ended well, but left no figures: {why_not}"}
    return result | {"figures": report.last_lines(log, None) if why_not else figures}


def broken(name, reason):
    """What the report keeps of a part, or of what makes a group of them, that this script failed at."""
    return {"name": name, "needed": True, "status": "failed", "reason": reason}


class Check:
    """The parts that ran, in a report that is complete after each of them."""

    def __init__(self, machine, budget, groups, only=()):
        self.machine, self.budget, self.groups, self.only = machine, budget, groups, only
        self.results, self.met, self.place = [], set(), "before the first part"
        self.write(f"it ended {self.place}")

    def write(self, unfinished=""):
        if self.only:
            unfinished = unfinished or "of " + " ".join(self.only) + " alone"
        return report.write(self.machine.out, self.results, self.machine.rehearse, unfinished)

    def add(self, result):
        self.results.append(result)
        print(f"   {result['name']}: {report.outcome(result)}", file=sys.stderr, flush=True)

    def wants(self, part):
        met = {pattern for pattern in self.only if fnmatch.fnmatchcase(part.name, pattern)}
        self.met |= met
        return bool(met) or not self.only

    def run_part(self, part):
        print(f"== {part.name}", file=sys.stderr, flush=True)
        self.place = f"in the part {part.name}"
        self.write(f"it ended {self.place}")
        limit_s = part.limit_s * PATIENCE if self.machine.rehearse else self.budget.limit_s(part)
        result, why_not = report.attempt(run, part, self.machine.out, limit_s, self.machine.watch)
        self.add(result or broken(part.name, why_not))

    def run_group(self, group):
        def each_part():
            for part in group(self.machine):
                if self.wants(part):
                    self.run_part(part)
        _, why_not = report.attempt(each_part)
        if why_not:
            self.add(broken(group.__name__, why_not))

    def run_all(self):
        """True for a "go"."""
        try:
            for group in self.groups:
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


def chosen_groups(calls, only):
    """Groups of parts of these calls; `only` chooses from all, once each."""
    wanted = parts.CALLS if only else calls
    return list(dict.fromkeys(group for call in wanted for group in parts.CALLS[call]))


def check_loading(machine):
    """The exit code of env.sh --check: nothing can run without what it asks for, and it says what that is."""
    refused = subprocess.run(["timeout", str(parts.LOAD_S), *machine.env, "--check"]).returncode
    if refused == 124:
        print(f"error: olmoe-train --version took more than {parts.LOAD_S} s", file=sys.stderr)
    return refused


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--call", type=int, choices=[*parts.CALLS], action="append")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART")
    parser.add_argument("report", nargs="?", type=Path)
    arguments = parser.parse_args()
    calls = arguments.call or [*parts.CALLS]
    name = "report_of_some" if arguments.only else f"report_{calls[0]}" if len(calls) == 1 else "report"
    out = (arguments.report or Path(name)).resolve()
    budget = Budget(CALL_S * len(calls), before_s=parts.LOAD_S)
    with tempfile.TemporaryDirectory() as samples:  # a report of before stays until this one can begin
        watch = Watch(Path(samples, "gpu.csv"))
        try:
            if not arguments.rehearse and watch.start():
                os.environ["OLMOE_GPU_DRIVER"] = watch.facts()["driver_version"]
            machine = parts.Machine(arguments.rehearse, out, watch)
            if refused := check_loading(machine):
                return refused
            new_folder(out)
            heed_signals()
            go = Check(machine, budget, chosen_groups(calls, arguments.only), arguments.only).run_all()
            if watch.samples():
                shutil.copy(watch.path, out / "gpu.csv")
        finally:
            watch.stop()
    print(f"{out / 'report.md'}", file=sys.stderr)
    return 0 if go else 1


if __name__ == "__main__":
    sys.exit(main())

"""Starts olmoe-study on studies of a made-up program that is quick, or of the real one."""
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "olmoe-study"
MADE_UP = Path(__file__).resolve().parent / "study_program.py"
# At the end of the path, where tokenize.py does not shadow the standard library's module.
sys.path.append(str(REPOSITORY / "scripts"))
PATIENCE_S = 90
CONFIG = """\
{"train": {"steps": 30}, "data": {"synthetic": true}, "evaluation": {"paths": ["held.npy"], "every_steps": 10}}
"""
PROGRAM = Path(os.environ.get("OLMOE_TRAIN", REPOSITORY / "build" / "olmoe-train")).resolve()
REAL_CONFIG = """\
model: {vocab_size: 64, d_model: 32, num_layers: 2, num_heads: 2, num_kv_heads: 2, num_experts: 4, top_k: 2,
        expert_width: 16}
train: {steps: 60, compute_dtype: float32, micro_batch_size: 1, global_batch_size: 4}
optimizer: {lr: 0.01}
schedule: {warmup_steps: 2, decay_steps: 40}
data: {synthetic: true, sequence_length: 32}
run: {threads: 1}
"""


class Started:
    """An olmoe-study at work in `folder`. What it says goes to a file."""

    def __init__(self, folder, arguments, environment):
        self.output = tempfile.TemporaryFile()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PMI_"))}
        self.process = subprocess.Popen([sys.executable, SCRIPT, *map(str, arguments)], cwd=folder,
                                        env=inherited | environment, stdin=subprocess.DEVNULL, stdout=self.output,
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def text(self):
        file = self.output.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def wait(self):
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not done after {PATIENCE_S} s:\n{self.text()}") from None


def processes_in(folder):
    """Ids of the living processes that name a path below `folder` in their command line, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(folder) in command:
            found.append(int(entry.name))
    return found


class StudyTest(unittest.TestCase):
    """A test with a temporary folder, in which self.study writes studies of the made-up program."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="olmoe-study-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name).resolve()
        self.control = self.folder / "control"
        self.control.mkdir()
        (self.folder / "tiny.yaml").write_text(CONFIG)
        self.programs = {name: self.script(name, f'exec "{sys.executable}" -S -E "{MADE_UP}" "$@"')
                         for name in ("olmoe-train", "olmoe-plan", "olmoe-checkpoint")}
        self.addCleanup(self.end_processes)

    def end_processes(self):
        for process in processes_in(self.folder):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def script(self, name, text):
        path = self.folder / "programs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def study(self, text, name="study.yaml", folder="runs"):
        """Writes a study of tiny.yaml; `text` has its runs, or its grid, and what else it names."""
        path = self.folder / name
        path.write_text(f"name: trial\nquestion: Does it?\nconfig: tiny.yaml\nfolder: {folder}\nresults: {folder}_results\n"
                        + text)
        return path

    def slow(self, seconds):
        """Steps of the made-up program take so long from now on."""
        path = self.control / "slow"
        part = self.control / "part"
        part.write_text(str(seconds))
        part.rename(path)
        if not seconds:
            path.unlink()

    def start(self, *arguments):
        options = [word for name, path in self.programs.items() for word in
                   ({"olmoe-train": "--program", "olmoe-plan": "--plan-program"}.get(name, "--checkpoint-program"), path)]
        started = Started(self.folder, [*arguments, *options], {"STUDY_CONTROL": str(self.control), "OMP_NUM_THREADS": "1"})
        self.addCleanup(started.output.close)
        self.addCleanup(started.process.wait)
        self.addCleanup(started.process.kill)
        return started

    def outcome(self, *arguments):
        """(exit code, what it said) of an olmoe-study that runs to its end."""
        started = self.start(*arguments)
        return started.wait(), started.text()

    def run_study(self, path, expected=0):
        code, text = self.outcome("run", path)
        self.assertEqual(code, expected, text)
        return text

    def wait_until(self, condition, started):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if started.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"ended, or waited too long, before what was waited for:\n{started.text()}")
            time.sleep(0.01)

    def steps_of(self, run, seed=6198, folder="runs"):
        """Steps that a run has written so far."""
        path = self.folder / folder / run / f"seed_{seed}" / "metrics.jsonl"
        return path.read_text().count('"loss"') if path.exists() else 0

    def runs_alive(self):
        """Processes of runs, not olmoe-study itself."""
        out = []
        for process in processes_in(self.folder):
            try:
                words = Path(f"/proc/{process}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"run.folder=" + os.fsencode(self.folder) in words and os.fsencode(SCRIPT) not in words:
                out.append(process)
        return out

    def kill_runs(self):
        for process in self.runs_alive():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def results(self, folder="runs"):
        """Texts of all result files by name."""
        return {path.name: path.read_text() for path in (self.folder / f"{folder}_results" / "runs").glob("*.json")}

    def result(self, run, seed=6198, folder="runs"):
        return json.loads(self.results(folder)[f"{run}-seed_{seed}.json"])


class RealProgramTest(StudyTest):
    """A test of studies of a tiny model that the built programs train."""

    def setUp(self):
        super().setUp()
        self.assertTrue(PROGRAM.is_file(), f"no program {PROGRAM}: build it, or name it in OLMOE_TRAIN")
        self.programs = {name: PROGRAM.parent / name for name in self.programs}
        (self.folder / "tiny.yaml").write_text(REAL_CONFIG)

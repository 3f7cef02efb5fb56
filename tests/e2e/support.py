"""Starts the real program for the end-to-end tests, alone or under mpirun, each test in a temporary folder of its own.

The environment variable OLMOE_TRAIN names the program; the default is build/olmoe-train.
"""
import array
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("OLMOE_TRAIN", REPOSITORY / "build" / "olmoe-train")).resolve()
# Ranks that wait for a message give their core away: more ranks than idle cores are the rule here, not the exception.
BARE_MPIRUN = ("mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1")
# As scripts/launch.sh has it: once a rank left with an error, mpirun waits 2 s for the others before it kills them.
MPIRUN = (*BARE_MPIRUN, "--mca", "odls_base_sigkill_timeout", "2")
PATIENCE_S = 150
# The learning rate must not depend on train.steps: runs of several lengths are compared step by step.
TINY = """\
model: {vocab_size: 64, d_model: 32, num_layers: 2, num_heads: 2, num_kv_heads: 2, num_experts: 4, top_k: 2,
        expert_width: 16}
train: {steps: 5, compute_dtype: float32, micro_batch_size: 1, global_batch_size: 6}
optimizer: {lr: 0.01}
schedule: {warmup_steps: 2, decay_steps: 20}
data: {synthetic: true, sequence_length: 16}
checkpoint: {every_steps: 0, keep: 0}
log: {every_steps: 1}
run: {threads: 1, folder: run}
"""


def processes_of(session):
    """Ids of the living processes of a session: mpirun and its ranks."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state != "Z":
            found.append(int(entry.name))
    return found


def runs_program(process):
    try:
        return Path(os.readlink(f"/proc/{process}/exe")) == PROGRAM
    except FileNotFoundError:
        return False


class Job:
    """The program at work, started in `folder`; `ranks` 0 is without mpirun. What it says goes to a file."""

    def __init__(self, folder, arguments, ranks=0, environment=None, program=(PROGRAM,), mpirun=MPIRUN):
        launcher = [*mpirun, "-n", str(ranks)] if ranks else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PMI_"))}
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
                   "OLMOE_TRAIN": str(PROGRAM)}
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*launcher, *program, *map(str, arguments)], cwd=folder, env=inherited | allowed | (environment or {}),
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True)

    def text(self):
        """What it said so far. Read by position: a seek would move the job's own place to write, which is the same."""
        file = self.output.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def wait(self):
        """Returns the exit code."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not done after {PATIENCE_S} s:\n{self.text()}") from None

    def wait_until(self, condition):
        """Waits until condition() holds while the job runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"ended, or waited {PATIENCE_S} s, before what was waited for:\n{self.text()}")
            time.sleep(0.002)

    def ranks(self):
        return sorted(filter(runs_program, processes_of(self.process.pid)))

    def kill(self):
        """kill -9 of mpirun and every rank, until none is left."""
        while living := processes_of(self.process.pid):
            for process in living:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.002)
        self.process.wait()


def step_lines(run):
    """Whole lines of metrics.jsonl, without the two numbers that are allowed to change from run to run."""
    path = Path(run, "metrics.jsonl")
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [re.sub(r',"(tokens_per_s|peak_memory_bytes)":[^,}]+', "", line) for line in lines]


def last_step(run):
    lines = step_lines(run)
    return json.loads(lines[-1])["step"] if lines else 0


def checkpoints(run):
    """Steps of the complete checkpoints, oldest first."""
    return sorted(int(path.parent.name[len("step_"):]) for path in Path(run, "checkpoints").glob("step_*/manifest.json"))


def trained_state(run):
    """What the newest checkpoint holds, float64: {kind:parameter: its values in order}."""
    pieces = {}
    for path in Path(run, "checkpoints", f"step_{checkpoints(run)[-1]:09d}").glob("shard_*.safetensors"):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for key, entry in json.loads(data[8:start]).items():
            if key == "__metadata__":
                continue
            kind_and_name, _, first = key.rpartition(":")
            begin, end = entry["data_offsets"]
            assert entry["dtype"] == "F64", f"{key} is {entry['dtype']}"
            values = array.array("d", data[start + begin:start + end])
            pieces.setdefault(kind_and_name, []).append((int(first), values))
    return {key: [value for _, values in sorted(parts) for value in values] for key, parts in pieces.items()}


def tree_hash(folder):
    """One hash over the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class ProgramTest(unittest.TestCase):
    """A test with a temporary folder, where self.config is a tiny model on generated tokens."""

    def setUp(self):
        self.assertTrue(PROGRAM.is_file(), f"no program {PROGRAM}: build it, or name it in OLMOE_TRAIN")
        temporary = tempfile.TemporaryDirectory(prefix="olmoe-e2e-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.config = self.write_config(TINY)

    def write_config(self, text, name="tiny.yaml"):
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *arguments, **how):
        job = Job(self.folder, arguments, **how)
        self.addCleanup(job.output.close)
        self.addCleanup(job.kill)
        return job

    def outcome(self, *arguments, **how):
        """Runs the program to its end: (exit code, what it said)."""
        job = self.start(*arguments, **how)
        return job.wait(), job.text()

    def train(self, run, *overrides, ranks=0):
        """Trains self.config in the folder `run` to its end, and returns its path."""
        code, text = self.outcome(self.config, f"run.folder={run}", *overrides, ranks=ranks)
        self.assertEqual(code, 0, text)
        self.assertIn(f"mesh: world {ranks or 1} = ", text)
        return self.folder / run

    def metrics(self, run):
        return [json.loads(line) for line in step_lines(run)]

    def assert_same_gradients(self, got, expected, tolerance):
        """Gradients of two float64 runs of one step, which the first moment is a multiple of; a tensor's error is
        relative to its largest value."""
        got, expected = trained_state(got), trained_state(expected)
        self.assertEqual(got.keys(), expected.keys())
        names = [key for key in expected if key.startswith("exp_avg:")]
        self.assertEqual(len(names), len(expected) / 3)
        for key in names:
            self.assertEqual(len(got[key]), len(expected[key]), key)
            scale = max(map(abs, expected[key]))
            self.assertGreater(scale, 0, f"{key} is zero in the reference")
            error = max(abs(a - b) for a, b in zip(got[key], expected[key])) / scale
            self.assertLessEqual(error, tolerance, key)

    def assert_close(self, got, expected, tolerance):
        """Losses and gradient norm of two runs, relative, step by step."""
        got, expected = self.metrics(got), self.metrics(expected)
        self.assertEqual([line["step"] for line in got], [line["step"] for line in expected])
        for ours, theirs in zip(got, expected):
            for key in ("loss", "load_balancing_loss", "router_z_loss", "grad_norm"):
                error = abs(ours[key] - theirs[key]) / abs(theirs[key])
                self.assertLessEqual(error, tolerance, f"{key} of step {ours['step']}")

"""Asks the built programs: what a config resolves to, whether it can run, parameters, FLOPs and predicted step times."""
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from study.spec import text_of
from study.yaml_reader import StudyError, flat, read_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = {"program": "olmoe-train", "plan_program": "olmoe-plan", "checkpoint_program": "olmoe-checkpoint"}
DEFAULTS = "run: {folder: run}\ntrain: {steps: 1}\ndata: {synthetic: true}\n"
PLAIN = re.compile(r"[A-Za-z_/.][\w./~=+-]*|")
CONFIG_ERROR = 2


class Refused(Exception):
    """A program's own words on why it does not run a config."""


def as_argument(key, value):
    """`key=value` as the programs read it."""
    if isinstance(value, str):
        return f"{key}={value if PLAIN.fullmatch(value) and value not in ('true', 'false', 'null') else json.dumps(value)}"
    return f"{key}={json.dumps(value) if isinstance(value, (list, dict)) else text_of(value)}"


def as_arguments(overrides):
    return [as_argument(key, value) for key, value in overrides.items()]


def error_of(text):
    """What a program's output says is wrong: its errors, else its notices, else its last line; without times of day."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for mark in (" error ", "notice: "):
        found = [line.partition(mark)[2] for line in lines if mark in f" {line}"]
        if found:
            first = next(number for number, line in enumerate(lines) if mark in f" {line}")
            # An error of several problems has one on each line, and nothing after them.
            return "; ".join([found[0], *lines[first + 1:]] if mark == " error " else found).replace(":; ", ": ")
    return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True)
class Programs:
    """Paths of the programs."""
    program: Path
    plan_program: Path
    checkpoint_program: Path

    @staticmethod
    def find(named):
        """`named`: paths by field, None for those of the repository's build. Raises StudyError for one that is not there."""
        paths = {}
        for key, name in NAMES.items():
            path = paths[key] = Path(os.path.abspath(named.get(key) or REPOSITORY / "build" / name))
            if key != "checkpoint_program" and not os.access(path, os.X_OK):
                raise StudyError(f"there is no program {path}: build it (docs/quickstart.md), or name {name} with "
                                 f"--{key.replace('_', '-')}")
        return Programs(**paths)

    def ask(self, program, *arguments):
        """What it prints. Raises Refused where it does not end with 0."""
        done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Refused(error_of(done.stderr if " error " in done.stderr else done.stdout + done.stderr))
        return done.stdout

    def config(self, path, overrides):
        """The resolved config as {"section.key": value}."""
        return flat(read_yaml(self.ask(self.program, path, *as_arguments(overrides), "--print-config"), path))

    def defaults(self):
        """Values of all keys that no file gives."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "defaults.yaml")
            path.write_text(DEFAULTS)
            return self.config(path, {})

    def dry_run(self, path, overrides, hardware):
        """Checks all that --dry-run does. Returns how many token files are missing here."""
        planned = ["--gpu", hardware.gpu, "--ranks", str(hardware.gpus)] if hardware else []
        text = self.ask(self.program, path, *as_arguments(overrides), "--dry-run", *planned)
        return sum(map(int, re.findall(r"^\w+ tokens: (\d+) of \d+ files are missing on this machine$", text, re.MULTILINE)))

    def plan(self, path, overrides, hardware):
        """olmoe-plan's JSON. It predicts bf16 alone, on which neither parameters nor FLOPs depend."""
        gpus = ["--gpu", hardware.gpu, "--gpus", str(hardware.gpus)] if hardware else ["--gpus", "1"]
        for_gpus = {} if hardware else {"train.device": "cpu", "train.compute_dtype": "bfloat16"}
        one_rank = {} if hardware else {"parallel.replicate": 1, "parallel.shard": 1, "parallel.expert": 1}
        text = self.ask(self.plan_program, path, *as_arguments(overrides | for_gpus | one_rank), "--json", *gpus)
        return json.loads(text)[0]

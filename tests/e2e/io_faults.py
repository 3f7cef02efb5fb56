"""Runs of a tiny model whose file calls misbehave: io_faults.c, which is preloaded, says how faults are written."""
import re
from pathlib import Path

from support import PROGRAM, ProgramTest

LIBRARY = PROGRAM.parent / "io_faults.so"
ALL_FILES = "*run/*.*"  # a pattern for those of the run in the folder `run`


def environment(faults, hits, seed=1):
    """Of a job that meets `faults` and notes each hit in the file `hits`."""
    return {"LD_PRELOAD": str(LIBRARY), "OLMOE_IO_FAULTS": ";".join(faults), "OLMOE_IO_FAULTS_HITS": str(hits),
            "OLMOE_IO_FAULTS_SEED": str(seed)}


def shards(run, step):
    """{name: bytes} of the files with the trained state of a checkpoint."""
    return {path.name: path.read_bytes() for path in Path(run, "checkpoints", f"step_{step:09}").glob("shard_*")}


def without_failures(lines):
    """Lines of metrics without the count of failed saves, which the undisturbed run does not have."""
    return [re.sub(r',"checkpoint_failures":\d+', "", line) for line in lines]


def failed_saves(text):
    """Steps of the saves that a log calls failed, in order."""
    return [int(step) for step in re.findall(r"cannot save step (\d+): ", text)]


def complaints(text):
    """Lines of a log above the level of information."""
    return re.findall(r"^[0-9-]{10} [0-9:.]{12} (?:rank \d+ )?(?:warning|error|critical) .*$", text, re.MULTILINE)


def complaints_but_for_waits(text):
    """The same without saves that were due before the one in flight was over, as they are where steps take little time."""
    return [line for line in complaints(text) if not line.endswith("is not saved yet: waiting for it")]


class IoFaultTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.assertTrue(LIBRARY.is_file(), f"no {LIBRARY}: build it")
        self.hits_file = self.folder / "hits"

    def disturbed(self, faults, *overrides, ranks=0):
        """Runs self.config in the folder `run` among faults, to its end: (exit code, what it said)."""
        self.hits_file.unlink(missing_ok=True)
        return self.outcome(self.config, "run.folder=run", *overrides, ranks=ranks,
                            environment=environment(faults, self.hits_file))

    def hits(self):
        """Calls that were hit, each "RANK CALL EFFECT"."""
        text = self.hits_file.read_text() if self.hits_file.exists() else ""
        return [" ".join(line.split()[:3]) for line in text.splitlines()]

    def names(self):
        """What is in the folder of the checkpoints."""
        return sorted(path.name for path in (self.folder / "run" / "checkpoints").iterdir())

"""What the long trials share: their command line, and their first and last lines."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from support import PROGRAM


def run_trials(make, summary):
    """Runs TRIALS [SEED] of the command line: `make(folder, seed)` has trial(number), which returns whether it went well.
    Returns an exit code."""
    trials, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{version}, {os.cpu_count()} cores, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="olmoe-torture-") as folder:
        torture = make(Path(folder), seed)
        good = sum(torture.trial(number) for number in range(1, trials + 1))
    print(f"{good} of {trials} runs became the run that nobody disturbed; {summary(torture)}")
    return 0 if good == trials else 1

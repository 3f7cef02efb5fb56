"""What scripts/prepare_tasks.py refuses of its arguments and of JSON lines: by file, line and document, and cleanly."""
import os
import unittest

from prepare_case import PrepareCase

GOOD = {"id": "good", "context": "Is it?", "choices": [" yes", " no"], "label": 0}


def changed(**fields):
    return {**GOOD, "id": "bad", **fields}


class LinesTest(PrepareCase):
    def refuse(self, message, *records, arguments=()):
        """The message follows the name of the file."""
        path = self.write("mine.jsonl", records)
        self.assert_refused(message, "--jsonl", path, *arguments)

    def test_lines_that_are_no_documents(self):
        self.refuse("mine.jsonl:2: not JSON: ", GOOD, "{\n")
        self.refuse("mine.jsonl:3: a JSON object is needed, not list", GOOD, "\n", [1])
        self.refuse("mine.jsonl: holds no documents")
        self.refuse("mine.jsonl:2: document bad: a list of strings is needed under 'choices'", GOOD, {"id": "bad"})
        self.refuse("document bad: a list of strings is needed under 'choices'", GOOD, changed(choices=" yes"))

    def test_texts_of_another_type(self):
        self.refuse("mine.jsonl:2: document bad: a string or a list of strings is needed under 'context'", GOOD,
                    changed(context=3))
        self.refuse("document bad: a string or a list of strings is needed under 'choices'", GOOD, changed(choices=[]))
        self.refuse("document bad: a string or a list of strings is needed under 'choices'", GOOD, changed(choices=[1, 2]))
        self.refuse("document bad: a string or a list of strings is needed under 'unconditional'", GOOD,
                    changed(unconditional=[None, None]))

    def test_numbers_that_do_not_fit(self):
        self.refuse("document bad: 2 strings under 'choices' do not fit 3 rows", changed(context=["a", "b", "c"]))
        self.refuse("document bad: 2 strings under 'context' do not fit 3 rows",
                    changed(context=["a", "b"], choices=[" x", " y", " z"]))
        self.refuse("document bad: 2 strings under 'unconditional' do not fit 3 rows",
                    changed(choices=[" a", " b", " c"], unconditional=["d", "e"]))

    def test_labels(self):
        for label in (2, -1, "0", True, None, 0.0):
            self.refuse(f"mine.jsonl:2: document bad: label {label!r} is not the index of one of its 2 choices", GOOD,
                        changed(label=label))

    def test_texts_without_tokens(self):
        self.refuse("mine.jsonl:2: document bad: choice 1: its continuation is empty", GOOD, changed(choices=[" a", ""]))
        self.refuse("document bad: choice 0: its context is empty: nothing would predict", GOOD, changed(context=""))
        self.refuse("document bad: choice 0: its domain is empty", changed(unconditional=""))
        self.refuse("document bad: choice 0: its continuation ' ' has no length in metrics version v1", GOOD,
                    changed(choices=[" ", " a"]))
        self.refuse("mine.jsonl:2: document bad: choice 0: 'utf-8' codec can't encode", GOOD,
                    '{"id": "bad", "context": "\\ud800", "choices": [" a", " b"], "label": 0}\n')

    def test_documents_of_several_kinds(self):
        self.refuse("mine.jsonl:2: document bad: has one choice, where other documents have several to rank", GOOD,
                    changed(choices=[" yes"]))
        self.refuse("mine.jsonl:2: document bad: a perplexity set has a string under 'text' in every line",
                    {"text": "One."}, changed())
        self.refuse("a perplexity set has a string under 'text' in every line, and no choices", changed(text="One."))
        self.refuse("mine: holds no documents", {"text": " "})

    def test_documents_that_contradict(self):
        self.refuse("mine.jsonl:2: document good: this id has another document before", GOOD, {**GOOD, "label": 1})

    def test_metrics_that_do_not_fit(self):
        self.refuse("mine: metric bpb does not fit a task of kind multiple_choice (acc, len_norm, pmi_dc, f1)", GOOD,
                    arguments=("--metric", "bpb"))
        self.refuse("mine: metric acc does not fit a task of kind documents (perplexity)", {"text": "One."},
                    arguments=("--metric", "acc"))
        self.refuse("mine: metric pmi_dc needs an unconditional context in every document", GOOD,
                    arguments=("--metric", "pmi_dc"))
        self.refuse("mine.jsonl:2: document bad: no unconditional context, but others have one",
                    {**GOOD, "unconditional": "Answer:"}, changed())

    def test_the_first_id(self):
        for number in ("257", "-1"):
            self.refuse(f"--first-id {number}: not among the 257 ids of the tokenizer", {"text": "One."},
                        arguments=("--first-id", number))


class ArgumentsTest(PrepareCase):
    """The script as a user runs it."""

    def refuse(self, code, message, *arguments):
        done = self.run_script(*arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(message, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def test_a_run_and_its_repetition(self):
        path = self.write("mine.jsonl", [GOOD])
        done = self.run_script("--jsonl", path)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "mine: 1 documents, 2 rows, 17 query tokens, the longest 9\n")
        before = (self.out / "mine.safetensors").stat()
        self.refuse(3, f"prepare_tasks.py: {self.out}/mine.safetensors: already there; choose another folder or remove it",
                    "--jsonl", path)
        self.assertEqual((self.out / "mine.safetensors").stat(), before)

    def test_one_bad_file_of_several(self):
        good, bad = self.write("good.jsonl", [GOOD]), self.write("bad.jsonl", [changed(label=9)])
        self.refuse(3, "bad.jsonl:1: document bad: label 9", "--jsonl", good, "--jsonl", bad)
        self.assertEqual(os.listdir(self.out), [])

    def test_files_that_cannot_be_read(self):
        self.refuse(3, "absent.jsonl: No such file or directory", "--jsonl", "absent.jsonl")
        self.refuse(3, "notes.txt: not JSON lines by its name", "--jsonl", self.write("notes.txt", [GOOD]))
        self.refuse(3, "table.csv (suffix '.csv')", "--jsonl", self.write("table.csv", [GOOD]))
        (self.folder / "folder.jsonl").mkdir()
        self.refuse(3, "folder.jsonl: Is a directory", "--jsonl", "folder.jsonl")

    def test_names(self):
        path = self.write("mine.jsonl", [GOOD])
        self.refuse(3, "'two words.safetensors': a task's name has letters, digits", "--jsonl", path, "--name", "two words")
        self.refuse(3, "mine.safetensors: named twice", "--jsonl", path, "--jsonl", path)
        self.refuse(2, "--name is for one file", "--jsonl", path, "--jsonl", path, "--name", "one")

    def test_arguments_that_are_missing(self):
        self.refuse(2, "one of --group, --label, --samples, --jsonl are needed")
        self.refuse(2, "--metric and --label-field are for --samples and --jsonl", "--label", "piqa", "--metric", "acc")
        self.refuse(2, "'answer:x' is not KEY or KEY:FIRST", "--samples", "a.jsonl", "--label-field", "answer:x")
        self.refuse(2, "invalid choice: 'all'", "--group", "all")
        self.refuse(2, "0 is not positive", "--jsonl", "a.jsonl", "--context", "0")

    def test_a_tokenizer_that_is_absent(self):
        self.refuse(3, "absent.json", "--jsonl", self.write("mine.jsonl", [GOOD]), "--tokenizer", "absent.json")

    def test_a_target_that_is_a_file(self):
        self.out.write_text("")
        self.refuse(3, "out: cannot be written: File exists; no task file was made", "--jsonl",
                    self.write("mine.jsonl", [GOOD]))


if __name__ == "__main__":
    unittest.main()

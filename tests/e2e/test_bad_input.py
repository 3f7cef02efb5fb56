"""Input that cannot be used ends the program with an exit code and a few lines that say what to fix; the run is unchanged."""
import array
import gzip
import os
import re
import shutil
import sys
import unittest

from support import BARE_MPIRUN, TINY, ProgramTest, checkpoints, last_step, step_lines, tree_hash

CONFIG, DATA, CHECKPOINT = 2, 3, 4
SCREEN_LINES = 24


def own_lines(text):
    """What our program said: without the frames that mpirun puts around the end of a job."""
    text = re.sub(r"(?ms)^-{60,}$.*?^-{60,}$\n?", "", text)
    return [line for line in text.splitlines() if line.strip() and not re.match(r"\[[\w.-]+:\d+\]", line)]


def write_tokens(path, ids):
    assert sys.byteorder == "little"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(array.array("H", ids).tobytes())


class BadInputTest(ProgramTest):
    def assert_refused(self, code, words, *arguments, launches=(0, 2)):
        """Alone and under a mpirun that does not wait for the other ranks once one has left: this exit code, every word
        said, on one screen, all files as before."""
        before = tree_hash(self.folder)
        for ranks in launches:
            got, text = self.outcome(*arguments, ranks=ranks, mpirun=BARE_MPIRUN)
            self.assertEqual(got, code, text)
            for word in words:
                self.assertIn(word, text)
            # The first lines of a run come before the error.
            self.assertLessEqual(len(own_lines(text)), SCREEN_LINES, text)
            self.assertEqual(tree_hash(self.folder), before, "a file appeared, changed or was lost")


class Config(BadInputTest):
    def setUp(self):
        super().setUp()
        self.train("run", "train.steps=2")

    def assert_text_refused(self, words, *replacement):
        self.assert_refused(CONFIG, words, self.write_config(TINY.replace(*replacement), "bad.yaml"))

    def test_unknown_duplicate_and_mistyped_keys(self):
        self.assert_text_refused(["bad.yaml", "optimizer.learning_rate"], "{lr: 0.01}", "{learning_rate: 0.01}")
        self.assert_text_refused(["bad.yaml", "optimizer.lr"], "{lr: 0.01}", "{lr: 0.01, lr: 0.02}")
        self.assert_text_refused(["bad.yaml", "optimizer.lr"], "{lr: 0.01}", "{lr: fast}")

    def test_all_problems_are_reported_at_once(self):
        bad = self.write_config(TINY.replace("{steps: 5, ", "{steps: many, stepz: 5, "), "bad.yaml")
        self.assert_refused(CONFIG, ["train.steps", "train.stepz", "optimizer.lr"], bad, "optimizer.lr=x", launches=(0,))

    def test_an_override_that_is_wrong(self):
        self.assert_refused(CONFIG, ["train.stepz", "did you mean 'train.steps'"], self.config, "train.stepz=5")
        self.assert_refused(CONFIG, ["train.steps"], self.config, "train.steps=0", launches=(0,))

    def test_a_config_that_cannot_be_read(self):
        self.assert_refused(CONFIG, ["missing.yaml"], "missing.yaml")
        self.assert_refused(CONFIG, [str(self.folder)], self.folder, launches=(0,))
        self.assert_refused(CONFIG, ["torn.yaml"], self.write_config("train: {steps: 5", "torn.yaml"), launches=(0,))

    def test_a_quote_that_does_not_close(self):
        end = "run:\n  folder: \"run\n  seed: 5\noptimizer:\n  lr: 1e-5\n"
        text = re.sub(r"(?m)^(optimizer|run): .*\n", "", TINY)
        line = text.count("\n") + 2
        problem = f"bad.yaml:{line}: invalid YAML: a quote opens here and does not close on its line"
        self.assert_refused(CONFIG, [problem], self.write_config(text + end, "bad.yaml"))
        in_the_middle = text + end + 'train: "x"\n'
        self.assert_refused(CONFIG, [problem], self.write_config(in_the_middle, "bad.yaml"), launches=(0,))

    def test_indentation_and_tabs(self):
        bad = self.write_config("log:\n\tevery_steps: 1\n" + TINY, "bad.yaml")
        self.assert_refused(CONFIG, ["bad.yaml:2:1: invalid YAML: wrong indentation: a tab"], bad, launches=(0,))
        bad = self.write_config("log:\n    every_steps: 1\n  host_syncs: false\n" + TINY, "bad.yaml")
        self.assert_refused(CONFIG, ["bad.yaml:3:3: invalid YAML: wrong indentation"], bad, launches=(0,))

    def test_numbers_that_are_absurd(self):
        absurd = {"run.threads": 10**9, "data.prefetch": 10**12, "train.steps": 10**9, "model.vocab_size": 10**9,
                  "data.sequence_length": 10**9, "parallel.expert_chunks": 10**9, "checkpoint.keep": 10**12,
                  "log.every_steps": 10**12, "run.hang_timeout_s": 10**12}
        self.assert_refused(CONFIG, [f"{key}: {value} must be between" for key, value in absurd.items()], self.config,
                            *(f"{key}={value}" for key, value in absurd.items()), launches=(0,))
        self.assert_refused(CONFIG, ["train.global_batch_size", "63 bits"], self.config, "data.sequence_length=16777216",
                            "train.micro_batch_size=2e9", "train.global_batch_size=2e9", "model.d_model=131072")

    def test_what_the_command_line_hands_to_yaml(self):  # of more values: tests/core/reader/config_typed_test.cpp
        for value in ("run #1", "run: 1", "a\nlr: 1", os.fsdecode(b"caf\xe9")):
            with self.subTest(value=value):
                self.assert_refused(CONFIG, ["run.folder: ", "command line", "quotes"], self.config,
                                    f"run.folder={value}", launches=(0,))

    def test_paths_that_nothing_replaces(self):
        for path, words in {"${HOME}/run": "variables are not replaced", "~nobody/run": "./~nobody/run",
                            "a" * 256: "256 bytes"}.items():
            self.assert_refused(CONFIG, ["run.folder: ", words, "command line"], self.config, f"run.folder={path}",
                                launches=(0,))
        self.assert_refused(CONFIG, ["run.folder: must not be empty"], self.config, "run.folder=", launches=(0,))

    def test_a_list_with_a_name_that_could_not_be_written(self):
        # A checkpoint names its files in UTF-8: such a run could never be saved.
        (self.folder / "list.txt").write_bytes(b"# one file\ncaf\xe9.npy\n")
        self.assert_refused(CONFIG, ["data.paths_file: list.txt:2: ", "UTF-8"], self.config, "data.synthetic=false",
                            "data.paths_file=list.txt")

    def test_a_run_folder_that_is_a_link_to_nowhere(self):
        (self.folder / "link").symlink_to("not_mounted")
        for name in ("link", "link/run"):
            self.assert_refused(CONFIG, ["run.folder: ", "link is a link to not_mounted, which is not there"], self.config,
                                f"run.folder={name}", launches=(2,))

    def test_a_layout_that_does_not_fit_the_ranks(self):
        self.assert_refused(CONFIG, ["parallel.shard", "3"], self.config, "parallel.shard=3")
        self.assert_refused(CONFIG, ["parallel.replicate", "3"], self.config, "parallel.replicate=3", launches=(2,))


class TokenFiles(BadInputTest):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(TINY.replace("synthetic: true", "paths: [tokens.npy]"))
        self.tokens = self.folder / "tokens.npy"
        write_tokens(self.tokens, [(7 * i) % 64 for i in range(16 * 30)])
        self.train("run", "train.steps=2")

    def test_missing(self):
        self.tokens.unlink()
        self.assert_refused(DATA, ["tokens.npy", "scripts/make_text_tokens.py", "docs/quickstart.md"], self.config)

    def test_a_wrong_dtype_names_every_file(self):
        for name, tokens in {"even.npy": 480, "odd.npy": 481, "held_even.npy": 480, "held_odd.npy": 481}.items():
            write_tokens(self.folder / name, [(7 * i) % 64 for i in range(tokens)])
        for launch in ((), ("--dry-run",)):
            self.assert_refused(DATA, ["2 of 2 token files", "even.npy: id ", "odd.npy: 962 bytes are not a multiple of 4"],
                                self.config, "data.paths=[even.npy, odd.npy]", "data.dtype=uint32", "run.folder=other",
                                *launch, launches=(0,))
            self.assert_refused(DATA, ["evaluation set held_even: ", "held_even.npy: id ", "evaluation set held_odd: ",
                                       "held_odd.npy: 962 bytes"],
                                self.config, "data.paths=[]", "data.synthetic=true", "data.dtype=uint32",
                                "evaluation.paths=[held_even.npy, held_odd.npy]", "run.folder=other", *launch,
                                launches=(0,))

    def test_cut_short_within_an_id(self):
        self.tokens.write_bytes(self.tokens.read_bytes()[:-1])
        self.assert_refused(DATA, ["tokens.npy", "959 bytes"], self.config)

    def test_an_id_outside_the_vocabulary(self):
        write_tokens(self.tokens, [5] * 100 + [64] + [5] * 100)
        self.assert_refused(DATA, ["tokens.npy", "64", "vocab"], self.config)

    def test_empty_or_no_file(self):
        self.tokens.write_bytes(b"")
        self.assert_refused(DATA, ["tokens.npy", "empty"], self.config, launches=(0,))
        self.tokens.unlink()
        self.tokens.mkdir()
        self.assert_refused(DATA, ["tokens.npy", "folder"], self.config, launches=(0,))

    def test_other_tokens_than_the_run_had(self):
        write_tokens(self.tokens, [(11 * i) % 64 for i in range(16 * 30)])
        self.assert_refused(CHECKPOINT, ["training tokens"], self.config)

    def test_ids_of_another_width(self):
        ids = [(7 * i) % 64 for i in range(16 * 30)]
        for code, advice in {"I": "data.dtype: uint32", "Q": "tokenize again"}.items():
            self.tokens.write_bytes(array.array(code, ids).tobytes())
            self.assert_refused(DATA, ["tokens.npy", advice], self.config, launches=(0,))

    def test_another_number_of_tokens_than_its_table_counts(self):
        table = self.folder / "tokens.csv.gz"
        table.write_bytes(gzip.compress(b"0,480,a,b,1\n"))
        self.train("counted", "train.steps=1")
        self.tokens.write_bytes(self.tokens.read_bytes()[:600])
        words = ["tokens.npy", "300 uint16 ids", "tokens.csv.gz", "480 tokens", "cut short"]
        self.assert_refused(DATA, words, self.config)
        self.assert_refused(DATA, words, self.config, "--dry-run", launches=(0,))
        whole = self.folder / "whole.npy"
        write_tokens(whole, [5] * 32)
        self.assert_refused(DATA, words, self.config, "data.paths=[whole.npy]", "evaluation.paths=[tokens.npy]",
                            "run.folder=other", launches=(0,))

    def test_other_formats(self):
        for content, words in {b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
                               gzip.compress(b"ids"): "gzip", b"All work and no play. " * 10: "is text"}.items():
            self.tokens.write_bytes(content)
            self.assert_refused(DATA, ["tokens.npy", words], self.config, launches=(0,))

    def late_offender(self, ranks):
        """A run that comes to an id outside the vocabulary at token 2052 of 33,000, between two samples."""
        ids = [(7 * i) % 64 for i in range(33000)]
        ids[2052] = 64
        write_tokens(self.tokens, ids)
        return self.outcome(self.config, f"run.folder=late{ranks}", "data.check_ids=false", "train.steps=40",
                            "train.micro_batch_size=30", "train.global_batch_size=60", "checkpoint.every_steps=1",
                            "checkpoint.keep=1", ranks=ranks)

    def test_an_id_outside_the_vocabulary_that_a_run_comes_to(self):
        for ranks in (0, 2):
            code, text = self.late_offender(ranks)
            self.assertEqual(code, DATA, text)
            self.assertIn("tokens.npy: id 64 at token 2052 (byte 4104) is outside the vocabulary of 64", text)
            self.assertNotIn("last collectives", text)
            run = self.folder / f"late{ranks}"
            self.assertGreater(last_step(run), 0)
            # A save reads no token of a step to come. Ranks that end without agreement cannot commit one in flight.
            self.assertIn(checkpoints(run), ([last_step(run)], [last_step(run) - 1]))

    def test_files_that_are_cut_or_changed_while_a_run_reads_them(self):
        def cut():
            self.tokens.write_bytes(self.tokens.read_bytes()[:64])

        def change():
            with open(self.tokens, "r+b") as file:  # of the same size at every moment
                file.write(array.array("H", [(11 * i) % 64 for i in range(16 * 30)]).tobytes())

        good = self.tokens.read_bytes()
        for number, (damage, words) in enumerate([(cut, "had 960 bytes"), (change, "its tokens changed since this run began")]):
            self.tokens.write_bytes(good)
            run = self.folder / f"changed{number}"
            job = self.start(self.config, f"run.folder={run}", "train.steps=100000")
            job.wait_until(lambda: last_step(run) >= 2)
            damage()
            self.assertEqual(job.wait(), DATA, job.text())
            self.assertIn("tokens.npy: ", job.text())
            self.assertIn(words, job.text())

    def test_tokens_that_change_between_the_samples(self):
        ids = [(7 * i) % 64 for i in range(33000)]
        write_tokens(self.tokens, ids)
        for verify in ("sample", "full"):
            self.train(verify, f"data.verify={verify}", "train.steps=1", ranks=2)
        ids[2052] = 1
        write_tokens(self.tokens, ids)
        self.train("sample", "train.steps=2")
        self.assert_refused(CHECKPOINT, ["training tokens"], self.config, "run.folder=full", "data.verify=full")

    def test_a_new_run_leaves_no_folder(self):
        self.tokens.unlink()
        self.assert_refused(DATA, ["tokens.npy"], self.config, "run.folder=new", launches=(0,))
        self.assertFalse((self.folder / "new").exists())

    def test_a_run_folder_that_cannot_be_made(self):
        self.tokens.unlink()  # the folder is checked first
        self.assert_refused(CONFIG, ["run.folder", "tiny.yaml is not a folder"], self.config,
                            f"run.folder={self.config}/run")


class DryRun(BadInputTest):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(TINY.replace("synthetic: true", "paths: [there.npy, missing.npy]"))
        self.tokens = self.folder / "there.npy"
        write_tokens(self.tokens, [5] * 10)  # less than a sequence: the missing file may hold more

    def assert_plan_refused(self, code, words, *overrides):
        self.assert_refused(code, words, self.config, "--dry-run", *overrides, launches=(0,))

    def test_files_that_are_missing_are_listed(self):
        write_tokens(self.folder / "held_out.npy", [5] * 16)
        code, text = self.outcome(self.config, "--dry-run", "evaluation.paths=[held_out.npy, gone.npy]")
        self.assertEqual(code, 0, text)
        for kind, path in {"training": "missing.npy", "evaluation": "gone.npy"}.items():
            self.assertIn(f"{kind} tokens: 1 of 2 files are missing on this machine\n  missing {path}\n  "
                          "scripts/make_text_tokens.py makes those of configs/tiny-cpu.yaml, ", text)

    def test_files_that_are_there_are_checked_all_the_same(self):
        write_tokens(self.tokens, [5] * 10 + [64])
        self.assert_plan_refused(DATA, ["there.npy", "id 64", "vocab"])
        self.tokens.write_bytes(b"odd")
        self.assert_plan_refused(DATA, ["there.npy", "3 bytes"])
        self.tokens.unlink()
        self.tokens.mkdir()
        self.assert_plan_refused(DATA, ["there.npy", "folder"])

    def test_evaluation_sets(self):
        self.assert_plan_refused(CONFIG, ["evaluation.paths", "held_out"],
                                 "evaluation.paths=[a/held_out.npy, b/held_out.npy]")
        write_tokens(self.folder / "short.npy", [5] * 15)
        self.assert_plan_refused(DATA, ["short.npy", "16 tokens"], "evaluation.paths=[short.npy, gone.npy]")
        write_tokens(self.folder / "high.npy", [5] * 15 + [64])
        self.assert_plan_refused(DATA, ["high.npy", "id 64"], "evaluation.paths=[high.npy, gone.npy]")

    def test_a_disk_smaller_than_a_checkpoint(self):
        code, text = self.outcome(self.config, "--dry-run", "run.folder=/proc/run")  # which stores nothing
        self.assertEqual(code, CONFIG, text)
        self.assertRegex(text, r"(?m)^notice: run\.folder: a checkpoint takes .*\n(.*\n)*checked: the config")

    def test_initial_weights(self):
        self.assert_plan_refused(CHECKPOINT, ["no_weights/config.json"], "train.init_from=no_weights")


STOP = "checkpoint.on_damage=stop"
ADVICE = "Restore it, or move run/checkpoints/step_000000002 away to start a new run"


class Checkpoint(BadInputTest):
    def setUp(self):
        super().setUp()
        run = self.train("run", "train.steps=2", ranks=2)
        self.assertEqual(checkpoints(run), [2])
        self.step = run / "checkpoints" / "step_000000002"

    def flip_bit(self, path, position):
        damaged = bytearray(path.read_bytes())
        damaged[position] ^= 1
        path.write_bytes(damaged)

    def test_a_damaged_file(self):
        shard = self.step / "shard_00001.safetensors"
        good = shard.read_bytes()
        self.flip_bit(shard, len(good) - 1)
        self.assert_refused(CHECKPOINT, [shard.name, "hash", ADVICE], self.config, STOP, launches=(0, 2))
        shard.write_bytes(good[:-8])
        self.assert_refused(CHECKPOINT, [shard.name, "bytes"], self.config, STOP, launches=(0,))
        shard.unlink()
        self.assert_refused(CHECKPOINT, [shard.name, "start a new run"], self.config, STOP, launches=(2,))

    def test_the_newest_that_is_not_damaged_is_resumed(self):
        run = self.train("run", "train.steps=6", "checkpoint.every_steps=2", ranks=2)
        whole = {step: tree_hash(run / "checkpoints" / f"step_{step:09}") for step in (4, 6)}
        lines = step_lines(run)
        self.flip_bit(run / "checkpoints" / "step_000000006" / "shard_00001.safetensors", -1)
        self.flip_bit(run / "checkpoints" / "step_000000004" / "manifest.json", 100)
        code, text = self.outcome(self.config, "train.steps=6", "checkpoint.every_steps=2", ranks=2)
        self.assertEqual(code, 0, text)
        self.assertIn("resuming from run/checkpoints/step_000000002", text)
        for step in (4, 6):
            self.assertIn(f"It is damaged and kept as run/checkpoints/step_{step:09}.damaged-1", text)
            self.assertTrue((run / "checkpoints" / f"step_{step:09}.damaged-1").is_dir())
            self.assertEqual(tree_hash(run / "checkpoints" / f"step_{step:09}"), whole[step], "trained again")
        self.assertEqual(step_lines(run), lines)

    def test_what_one_rank_finds_is_reported_once(self):
        shard = self.step / "shard_00001.safetensors"
        self.flip_bit(shard, -1)
        # This mpirun kills rank 1 once rank 0 ends the job. The file is named when it is read again, and at the end.
        code, text = self.outcome(self.config, STOP, ranks=2, mpirun=BARE_MPIRUN)
        self.assertEqual(code, CHECKPOINT, text)
        self.assertEqual(text.count(shard.name), 2, text)
        self.assertIn("rank 1: cannot load step 2: ", text)

    def test_a_folder_that_cannot_be_read_is_not_an_empty_one(self):
        moved = self.step.parent.rename(self.step.parent.parent / "elsewhere")
        self.step.parent.symlink_to("not_mounted")
        self.assert_refused(CHECKPOINT, ["cannot look for checkpoints", "run/checkpoints"], self.config)
        self.assertTrue(moved.is_dir())

    def test_a_damaged_manifest(self):
        manifest = self.step / "manifest.json"
        good = manifest.read_text()
        manifest.write_text(good.replace('"step": 2', '"step": 3'))
        self.assert_refused(CHECKPOINT, ["manifest.json", "hash", ADVICE], self.config, STOP)
        manifest.write_text(good[: len(good) // 2])
        self.assert_refused(CHECKPOINT, ["manifest.json", "damaged", ADVICE], self.config, STOP, launches=(0,))

    def test_initial_weights_that_are_not_there(self):
        self.assert_refused(CHECKPOINT, ["no_weights/config.json"], self.config, "train.init_from=no_weights",
                            "run.folder=another")

    def test_another_model_or_another_order_of_data(self):
        for override in ("model.num_layers=3", "run.seed=7", "train.global_batch_size=4"):
            self.assert_refused(CHECKPOINT, [override.split("=", maxsplit=1)[0], "run.folder"], self.config, override,
                                launches=(0,))
        self.assert_refused(CHECKPOINT, ["model.top_k"], self.config, "model.top_k=1", launches=(2,))

    def test_an_unfinished_one_is_none(self):
        shutil.copytree(self.step, self.step.parent / "step_000000003")
        (self.step.parent / "step_000000003" / "manifest.json").unlink()
        interrupted = self.step.parent / ".tmp_step_000000004"
        shutil.copytree(self.step, interrupted)
        code, text = self.outcome(self.config, "train.steps=3")
        self.assertEqual(code, 0, text)
        self.assertIn("step_000000002", text)
        self.assertEqual([line["step"] for line in self.metrics(self.folder / "run")], [1, 2, 3])
        self.assertFalse(interrupted.exists(), "a save removes what an interrupted one left")


if __name__ == "__main__":
    unittest.main()

"""What the program prints without training, and that it needs no MPI where no launcher started it."""
import json
import shutil
import subprocess
import unittest

from support import PROGRAM, REPOSITORY, TINY, ProgramTest, step_lines, tree_hash

MPI_UNUSABLE = {"OPAL_PREFIX": "/nonexistent", "OMPI_MCA_pml": "none_such"}


def git_knows_the_commit():
    """Whether these sources lie in a repository of their own that git can read; a tarball or a foreign owner do not."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        return False
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True).returncode == 0


class CommandLine(ProgramTest):
    def test_plans_of_the_published_models(self):
        for config, counts in {"olmoe-1b-7b": "6,919,161,856 total, 1,282,017,280 active",
                               "olmo-1b-dense": "1,279,920,128 total, 1,279,920,128 active"}.items():
            with self.subTest(config=config):
                before = tree_hash(self.folder)
                code, text = self.outcome(REPOSITORY / "configs" / f"{config}.yaml", "--dry-run", "--ranks", "256")
                self.assertEqual(code, 0, text)
                self.assertIn(f"parameters: {counts}\n", text)
                self.assertIn("mesh: world 256 = replicate 1 x shard 256 ", text)
                self.assertIn("files are missing on this machine", text)
                self.assertEqual(tree_hash(self.folder), before)

    def test_the_plan_of_a_successor_counts_as_its_authors_do(self):
        code, text = self.outcome(REPOSITORY / "configs" / "olmoe3-dev-tiny-64e.yaml", "--dry-run")
        self.assertEqual(code, 0, text)
        self.assertIn("parameters: 12,912,173,056 total, 1,587,552,256 active\n", text)

    def test_the_plan_of_shared_experts_and_of_widths_by_block(self):
        config = REPOSITORY / "configs" / "olmoe-1b-7b.yaml"
        for override, counts in {"model.share_experts=true": "879,364,096 total, 879,364,096 active",
                                 f"model.layer_widths={[512] * 8 + [1536] * 8}":
                                     "6,919,161,856 total, 1,282,017,280 active"}.items():
            with self.subTest(override):
                code, text = self.outcome(config, "--dry-run", "--ranks", "256", override)
                self.assertEqual(code, 0, text)
                self.assertIn(f"parameters: {counts}\n", text)

    def test_recipes_of_variants_train(self):
        for name in ("deepseek-style-tiny", "olmoe3-dev-tiny-64e-cpu"):
            with self.subTest(name):
                code, text = self.outcome(REPOSITORY / "configs" / f"{name}.yaml", "train.steps=12", "run.threads=1",
                                          "schedule.warmup_steps=2", "schedule.cooldown_steps=0", "schedule.kind=cosine",
                                          f"run.folder={self.folder / name}", "log.every_steps=1")
                self.assertEqual(code, 0, text)
                lines = [json.loads(line) for line in step_lines(self.folder / name)]
                self.assertLess(lines[-1]["loss"], lines[0]["loss"] - 0.01)

    def test_a_plan_checks_the_layout(self):
        code, text = self.outcome(self.config, "--dry-run", "--ranks", "8", "parallel.shard=3")
        self.assertEqual(code, 2, text)
        self.assertIn("parallel.shard", text)

    def test_a_plan_counts_a_batch_size_warmup_and_names_what_groups_match(self):
        code, text = self.outcome(self.config, "--dry-run", "train.batch_size_warmup=[{until_step: 2, global_batch_size: 1}]",
                                  "optimizer.groups=[{match: '*.router.weight', lr_scale: 0.5}, {match: head.weight, frozen: true}]")
        self.assertEqual(code, 0, text)
        self.assertIn("steps: 5 of 6 sequences x 16 tokens = 96 tokens a step, 320 in all\n", text)
        self.assertIn("batch-size warm-up: 1 sequence up to step 2\n", text)
        self.assertIn("optimizer.groups[0]: *.router.weight is 2 parameters of 256 values: learning rate x 0.5\n", text)
        self.assertIn("optimizer.groups[1]: head.weight is 1 parameter of 2,048 values: frozen\n", text)

    def test_a_plan_predicts_the_speed_of_the_gpu_that_is_named(self):
        config = REPOSITORY / "configs" / "olmoe-1b-7b.yaml"
        code, text = self.outcome(config, "--dry-run", "--gpu", "h200")
        self.assertEqual(code, 0, text)
        self.assertRegex(text, r"predicted step: \d+\.\d ms \(\d+ to \d+\), \d+ tokens/s per GPU")
        code, text = self.outcome(config, "--dry-run")
        self.assertEqual(code, 0, text)
        self.assertIn("no GPU was named; name one with --gpu, of a100, b200, h100, h200", text)
        code, text = self.outcome(config, "--dry-run", "--gpu", "h800")
        self.assertEqual(code, 2, text)
        self.assertIn("known are a100, b200, h100, h200", text)
        self.assertEqual(self.outcome(config, "--gpu", "h200")[0], 2)  # without --dry-run nothing is predicted

    def test_the_printed_config_is_a_config(self):
        code, printed = self.outcome(self.config, "--print-config", "train.steps=7")
        self.assertEqual(code, 0, printed)
        self.assertIn("steps: 7", printed)
        again = self.outcome(self.write_config(printed, "printed.yaml"), "--print-config")
        self.assertEqual(again, (0, printed))

    def test_the_run_folder_keeps_the_config(self):
        run = self.train("run", "train.steps=1")
        code, printed = self.outcome(self.config, "--print-config", "run.folder=run", "train.steps=1")
        self.assertEqual(code, 0, printed)
        self.assertEqual((run / "config.yaml").read_text(), printed)

    def test_version_and_help(self):
        code, text = self.outcome("--version")
        self.assertEqual(code, 0, text)
        commit = "[0-9a-f]{12,40}(-dirty)?" if git_knows_the_commit() else "unknown"
        self.assertRegex(text, rf"^olmoe-train \d+\.\d+\.\d+ \({commit}\)\n$")
        code, text = self.outcome("--help")
        self.assertEqual(code, 0, text)
        for option in ("--dry-run", "--print-config", "--gpu", "--ranks", "--version", "config"):
            self.assertIn(option, text)

    def test_hints(self):
        for override, hint in {"steps=3": "did you mean 'train.steps'?", "every_steps=3": "'checkpoint.every_steps' or '",
                               "train.lr=1": "did you mean 'optimizer.lr'?",
                               "parallel.overlap=True": "did you mean 'true'?", "train.steps=1_000": "write 1000",
                               "train.init_from=null": 'for none write ""', "train.stepss=3": "mean 'train.steps'?",
                               "data.paths=a.npy": "expected a list, got 'a.npy' (command line), write "
                                                   "data.paths=[a.npy]"}.items():
            with self.subTest(override=override):
                code, text = self.outcome(self.config, override)
                self.assertEqual(code, 2, text)
                self.assertIn(hint, text)

    def test_an_override_with_dashes(self):
        programs = [PROGRAM] + [PROGRAM.with_name(name) for name in ("olmoe-plan", "olmoe-doctor")]
        for program in programs:
            for argument, advice in {"--train.steps=5": "train.steps=5", "--train.steps": "train.steps=VALUE"}.items():
                with self.subTest(program=program.name, argument=argument):
                    code, text = self.outcome(self.config, argument, program=(program,))
                    self.assertEqual(code, 2, text)
                    self.assertIn(f"write overrides without --: {advice}\n", text)
        code, text = self.outcome(self.config, "--dryrun")
        self.assertEqual(code, 2, text)
        self.assertNotIn("write overrides", text)

    def test_a_value_is_unset_by_none(self):
        config = self.write_config(TINY.replace("{steps: 5,", "{steps: 5, init_from: weights,"))
        code, printed = self.outcome(config, "--print-config", "train.init_from=", "train.steps=1e6")
        self.assertEqual(code, 0, printed)
        self.assertIn('  init_from: ""\n', printed)
        self.assertIn("  steps: 1000000\n", printed)

    def test_where_paths_start(self):
        (self.folder / "theirs" / "data").mkdir(parents=True)
        (self.folder / "mine").mkdir()
        (self.folder / "theirs" / "data" / "list.txt").write_bytes(b"\xef\xbb\xbfa.npy\n")
        (self.folder / "typed.txt").write_text("b.npy\n")
        self.write_config(TINY.replace("synthetic: true", "paths_file: data/list.txt, root: tokens"), "theirs/run.yaml")
        config = self.write_config("base: ../theirs/run.yaml\n", "mine/run.yaml")
        for overrides, paths in {(): "tokens/a.npy", ("data.paths_file=typed.txt",): "tokens/b.npy",
                                 ("data.paths=[c.npy]",): "c.npy, tokens/a.npy",
                                 ("data.root=there",): "there/a.npy"}.items():
            code, printed = self.outcome(config, "--print-config", *overrides)
            self.assertEqual(code, 0, printed)
            self.assertIn(f"  paths: [{paths}]\n", printed)
        code, text = self.outcome(config, "data.paths_file=data/list.txt")
        self.assertEqual(code, 2, text)
        self.assertIn("data.paths_file: cannot open 'data/list.txt': No such file or directory", text)

    def test_home(self):
        for config, override in ((self.config, "run.folder=~/run"),
                                 (self.write_config(TINY.replace("folder: run", "folder: ~/run"), "home.yaml"), "run.seed=1")):
            code, text = self.outcome(config, override, "train.steps=1", environment={"HOME": str(self.folder / "home")})
            self.assertEqual(code, 0, text)
            self.assertTrue((self.folder / "home" / "run" / "metrics.jsonl").is_file())
            self.assertFalse((self.folder / "~").exists())
            shutil.rmtree(self.folder / "home")

    def test_a_wrong_command_line(self):
        for arguments in ([], ["--no-such-option", self.config], [self.config, "--ranks", "none"]):
            code, text = self.outcome(*arguments)
            self.assertEqual(code, 2, text)
            self.assertTrue(text.strip())


class WithoutMpi(ProgramTest):
    def test_one_rank_makes_no_mpi_call(self):
        code, text = self.outcome(self.config, environment=MPI_UNUSABLE)
        self.assertEqual(code, 0, text)
        self.assertIn("MPI none, one rank", text)
        self.assertEqual(len(self.metrics(self.folder / "run")), 5)

    def test_the_same_environment_stops_an_mpi_call(self):
        # A launcher's variable makes the program start MPI, which must then fail: the test above can fail.
        code, text = self.outcome(self.config, environment=MPI_UNUSABLE | {"PMI_RANK": "0"})
        self.assertNotEqual(code, 0)
        self.assertIn("opal_init", text)
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    unittest.main()

"""The plan of a study: every run is checked before the first starts, and tokens and FLOPs are counted through forks."""
import re
import unittest

from study_case import REPOSITORY, StudyTest

from study import identity
from study.plan import kept_problem, make_plan
from study.programs import Programs
from study.spec import read_study


class Checked(StudyTest):
    def assert_refused(self, text, *words):
        code, said = self.outcome("run", self.study(text))
        self.assertEqual(code, 2, said)
        for one in words:
            self.assertIn(one, said)
        self.assertFalse((self.folder / "runs").exists(), "something ran")

    def test_broken_configs_are_named_all_of_them_before_anything_runs(self):
        self.assert_refused("runs: [{name: a}, {name: b, overrides: {modle.width: 3}}, {name: c, overrides: {model.width: 0}}]\n",
                            "study.yaml: 2 of 3 runs cannot be started: b: modle.width: unknown key; c: model.width: is 0, and")

    def test_a_fork_where_its_parent_saves_nothing_is_named(self):
        self.assert_refused("runs: [{name: a}, {name: b, parent: a, parent_step: 15}]\n",
                            "b: starts from step 15 of a: it does not save there: see checkpoint.every_steps")
        self.assert_refused("overrides: {checkpoint.keep: 1}\nruns: [{name: a}, {name: b, parent: a, parent_step: 10}]\n",
                            "b: starts from step 10 of a: it saves 2 more times and keeps 1: see checkpoint.keep")
        self.assert_refused("runs: [{name: a}, {name: b, parent: a}]\n", "b: ends at step 30, and begins after step 30 of a")

    def test_progress_cannot_be_continued_with_another_batch_or_model(self):
        fork = "runs: [{{name: a}}, {{name: b, parent: a, parent_step: 10, overrides: {{{}: 32}}}}]\n"
        for key in ("model.width", "train.global_batch_size", "data.sequence_length"):
            self.assert_refused(fork.format(key), f"b: continues the progress of a with another {key}; train.init_progress: "
                                                  "restart counts its steps anew")

    def test_missing_token_files_are_named_before_anything_runs_and_a_plan_needs_none(self):
        text = "overrides: {data.paths: [absent.npy]}\nruns: [{name: a}]\n"
        code, said = self.outcome("plan", self.study(text))
        self.assertEqual(code, 0, said)
        code, said = self.outcome("run", self.study(text))
        self.assertEqual(code, 2, said)
        self.assertIn("study.yaml: token files of 1 runs are missing here (a: 1)", said)

    def test_when_a_checkpoint_is_there_at_the_end_of_a_run(self):
        config = {"train.steps": 100, "checkpoint.cadence": [{"until_step": 20, "every_steps": 5}], "checkpoint.every_steps": 30,
                  "checkpoint.save_last": True, "checkpoint.keep": 2, "checkpoint.keep_every_steps": 20}
        there = [step for step in range(1, 101) if kept_problem(config, step) is None]
        self.assertEqual(there, [20, 60, 90, 100])
        self.assertIn("it ends at step 100", kept_problem(config, 120))


class Ranks(StudyTest):
    """The number of ranks, where it is part of what is learned, and where it is only a way to compute."""
    def setUp(self):
        super().setUp()
        self.starts = self.script("starts", 'shift; exec "$@"')

    def text(self, ranks, granularity):
        command = f"{self.starts} {{ranks}} {{program}} {{config}} {{overrides}}"
        return (f"launch: {{command: '{command}', ranks: {ranks}}}\n"
                f"overrides: {{model.load_balancing_granularity: {granularity}}}\nruns: [{{name: a}}]\n")

    def test_a_result_of_other_ranks_is_of_another_run_where_the_loss_joins_all_ranks(self):
        self.run_study(self.study(self.text(2, "global")))
        self.assertIn("launch.ranks: 2 then, 4 now", self.run_study(self.study(self.text(4, "global")), expected=2))

    def test_a_result_of_other_ranks_counts_where_it_joins_none(self):
        self.run_study(self.study(self.text(2, "step")))
        self.assertIn("1 of 1 runs are done", self.run_study(self.study(self.text(4, "step"))))

    def test_ranks_that_nobody_says_are_asked_for_where_they_are_part_of_the_run(self):
        text = "launch: {{submit: '{0} {{overrides}}', status: '{0} {{job}}'}}\n".format(self.starts)
        granularity = "overrides: {model.load_balancing_granularity: global}\nruns: [{name: a}]\n"
        code, said = self.outcome("plan", self.study(text + granularity))
        self.assertEqual(code, 2, said)
        self.assertIn("a: model.load_balancing_granularity: global joins all ranks: launch.ranks (or hardware) must say how", said)
        self.assertEqual(self.outcome("plan", self.study(text + granularity.replace("global", "step")))[0], 0)

    def test_hashes_of_committed_results_stay_as_they_are(self):
        study = read_study(self.study("overrides: {optimizer.lr: 0.25}\nruns: [{name: a}, {name: b, parent: a, parent_step: 20}]\n"))
        programs = Programs(*(self.programs[name] for name in ("olmoe-train", "olmoe-plan", "olmoe-checkpoint")))
        runs = make_plan(study, programs).runs
        self.assertEqual([runs[name].config_hash[:16] for name in "ab"], ["f43a4a3c862eaa82", "ce51c0e152d4fcf6"])

    def test_several_ranks_need_a_command_that_starts_them(self):
        for text in ("launch: {ranks: 2}\n", "hardware: {gpu: h100, gpus: 8}\n"):
            path = self.study(text + "runs: [{name: a}]\n")
            self.assertEqual(self.outcome("plan", path)[0], 0)
            for command in ("run", "time"):
                code, said = self.outcome(command, path)
                self.assertEqual(code, 2, said)
                self.assertIn("study.yaml: launch.command starts one process for each run, and the study has runs of ", said)
            self.assertFalse((self.folder / "runs" / "a").exists())


class Counted(StudyTest):
    def test_the_table_counts_through_forks_warm_up_of_the_batch_and_seeds(self):
        code, said = self.outcome("plan", self.study("""\
seeds: [1, 2]
hardware: {gpu: h100, gpus: 8}
overrides: {train.batch_size_warmup: [{until_step: 10, global_batch_size: 2}]}
runs:
  - {name: trunk}
  - {name: fork, parent: trunk, parent_step: 20, seeds: [2]}
  - {name: batch, parent: fork, overrides: {train.global_batch_size: 8, train.batch_size_warmup: [], train.init_progress: restart, train.steps: 10}, seeds: [2]}
"""))
        self.assertEqual(code, 0, said)
        rows = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
        tokens = (10 * 2 + 20 * 4) * 16
        self.assertEqual(rows["trunk"], ["2", "8,000", "4,000", "30", f"{tokens:,}", f"{tokens:,}", f"{tokens * 24000.0:.3g}", "0.0"])
        self.assertEqual(rows["fork"][4:6], [f"{tokens:,}", f"{10 * 4 * 16:,}"])
        self.assertEqual(rows["batch"][4:6], [f"{tokens + 1280:,}", "1,280"])
        own = 2 * tokens + 640 + 1280
        self.assertIn(f"in all: 4 runs, {own:,} tokens, {own * 24000.0:.3g} FLOPs, 0.1 hours on 8 h100 (predicted, not measured)", said)


class Identity(unittest.TestCase):
    CONFIG = {"model.width": 8, "run.folder": "x", "run.seed": 3, "checkpoint.keep": 2, "data.paths": ["/a/b.npy"],
              "evaluation.paths": ["/a/c.npy"], "evaluation.sets": [{"name": "d", "paths": ["/a/d.npy"]}]}
    DEFAULTS = {"model.width": 4, "model.depth": 2}

    def test_paths_seeds_and_saving_are_left_out(self):
        self.assertEqual(identity.identity_of(self.CONFIG, 128), {
            "model.width": 8, "data.paths": ["b.npy"], "evaluation.paths": ["c.npy"],
            "evaluation.sets": [{"name": "d", "paths": ["d.npy"]}]})
        many = identity.identity_of(self.CONFIG | {"data.paths": [f"/a/{n}.npy" for n in range(2000)]}, 1)
        self.assertRegex(many["data.paths"], r"^2000 files, sha256 [0-9a-f]{16}$")

    def test_ranks_count_where_the_load_balancing_loss_joins_them_and_nowhere_else(self):
        for granularity, counted in (("micro_batch", 1), ("sequence", 1), ("step", 1), ("global", 2)):
            config = self.CONFIG | {"model.load_balancing_granularity": granularity}
            then, now = (identity.identity_of(config, ranks) for ranks in (8, 128))
            hashes = {identity.hash_of(one, self.DEFAULTS, None) for one in (then, now)}
            self.assertEqual(len(hashes), counted, granularity)
            self.assertEqual(identity.differences(then, now, self.DEFAULTS),
                             ["launch.ranks: 8 then, 128 now"] if counted == 2 else [])

    def test_a_new_key_of_the_program_with_its_default_changes_nothing(self):
        then = identity.identity_of(self.CONFIG, 1)
        now = then | {"model.depth": 2}
        self.assertEqual(identity.differences(then, now, self.DEFAULTS), [])
        self.assertEqual(identity.hash_of(then, self.DEFAULTS, None), identity.hash_of(now, self.DEFAULTS, None))
        self.assertEqual(identity.differences(then, then | {"model.depth": 3}, self.DEFAULTS), ["model.depth: 2 then, 3 now"])
        self.assertEqual(identity.differences(now, then, self.DEFAULTS), ["model.depth: 2 then, no key of the program now"])
        # A default that changes is a difference, though the hash cannot see it.
        self.assertEqual(identity.differences(now, now | {"model.depth": 5}, {"model.depth": 5}), ["model.depth: 2 then, 5 now"])

    def test_the_fixed_keys_are_those_of_the_program(self):
        source = (REPOSITORY / "trainer/config/fixed_keys.cpp").read_text()
        fixed, free = re.findall(r"constexpr std::array<std::string_view, \d+> \w+\{(.*?)\};", source, re.DOTALL)
        self.assertEqual(set(re.findall(r'"([\w.]+)"', fixed)) - {"run.seed"}, identity.FIXED_KEYS)
        self.assertEqual(set(re.findall(r'"([\w.]+)"', free)), identity.FREE_KEYS)


if __name__ == "__main__":
    unittest.main()

"""Results that are not of the study as it is now: found from its files, named in the report, and mixed into nothing."""
import json
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from study_results import BATCH, REPOSITORY, make_result, make_run, make_study, make_times  # puts scripts on the path

from study.report import analyse, warning_text, write_report
from study.result_checks import config_values, named_config, results_of_study
from study.results import read_results
from study.spec import read_study
from study.statistics import ReportError
from study.yaml_reader import StudyError

DENSE, MOE = make_run("dense", "dense twin", model__ffn="dense"), make_run("moe", train__steps=400, optimizer__lr=0.002)
STUDIES = REPOSITORY / "configs" / "studies"


def two_runs():
    return [make_result(run, seed, final) for run, final in ((DENSE, 2.0), (MOE, 1.9)) for seed in (1, 2, 3)]


class OtherConfigs(unittest.TestCase):
    def changed(self, runs, results):
        """{(run, seed): what differs}"""
        return results_of_study(make_study(runs), results)[1]

    def test_results_of_the_study_as_it_is(self):
        self.assertEqual(self.changed([DENSE, MOE], two_runs()), {})

    def test_an_override_that_the_study_has_changed(self):
        now = replace(MOE, overrides=MOE.overrides | {"optimizer.lr": 0.004})
        self.assertEqual(self.changed([DENSE, now], two_runs()), {
            ("moe", seed): ["optimizer.lr: 0.002 then, 0.004 now"] for seed in (1, 2, 3)})

    def test_an_override_that_is_gone_or_new(self):
        now = replace(MOE, overrides={"train.steps": 400, "model.tie_embeddings": True})
        changes = self.changed([DENSE, now], two_runs())["moe", 1]
        self.assertEqual(changes, ["model.tie_embeddings: true now, no key of the result"])  # the config has the same lr
        now = replace(DENSE, overrides={})
        self.assertEqual(self.changed([now, MOE], two_runs())["dense", 2], ["model.ffn: dense then, moe now"])
        then = replace(MOE, overrides=MOE.overrides | {"model.share_experts": True})
        self.assertEqual(self.changed([DENSE, MOE], [make_result(then, 1, 2.0)])["moe", 1],
                         ["model.share_experts: true then, not named now"])

    def test_a_value_of_another_type_is_another_one(self):
        results = two_runs()
        results[3]["config"] = results[3]["config"] | {"train.steps": 400.0, "model.top_k": True}
        changes = self.changed([DENSE, MOE], results)
        self.assertEqual(changes, {("moe", 1): ["model.top_k: true then, 4 now"]})

    def test_where_and_how_a_run_computes_does_not_count(self):
        now = replace(MOE, overrides=MOE.overrides | {"run.threads": 7, "checkpoint.keep": 9, "parallel.shard": 4})
        self.assertEqual(self.changed([DENSE, now], two_runs()), {})
        self.assertEqual(self.changed([DENSE, MOE], [make_result(now, 1, 2.0)]), {})

    def test_a_config_file_with_bases(self):
        with tempfile.TemporaryDirectory() as folder:
            top, base = Path(folder, "top.yaml"), Path(folder, "base.yaml")
            base.write_text("train: {steps: 9}\ndata: {paths: [/a/x.npy], prefetch: 3}\noptimizer: {lr: 1e-3}\n")
            top.write_text("base: base.yaml\noptimizer: {lr: 4e-4}\nevaluation: {sets: [{name: b, paths: [c/y.npy]}]}\n")
            self.assertEqual(config_values(top)["optimizer.lr"], 4e-4)
            run = replace(MOE, config=top, overrides={"train.steps": 10})
            self.assertEqual(named_config(run), {"train.steps": 10, "data.paths": ["x.npy"], "optimizer.lr": 4e-4,
                                                 "evaluation.sets": [{"name": "b", "paths": ["y.npy"]}]})
            result = make_result(run, 1, 2.0)
            result["config"]["evaluation.sets"] = [{"name": "b", "paths": ["y.npy"], "weight": 1}]  # as it is resolved
            self.assertEqual(self.changed([run], [result]), {})
            base.write_text(base.read_text() + "model: {top_k: 2}\n")
            self.assertEqual(self.changed([run], [result])["moe", 1], ["model.top_k: 2 now, no key of the result"])
            base.write_text("base: top.yaml\n")
            with self.assertRaisesRegex(StudyError, "its base leads back to it"):
                config_values(top)
            base.unlink()
            with self.assertRaisesRegex(StudyError, "base.yaml: cannot be read: No such file"):
                config_values(top)

    def test_committed_results_are_of_their_studies(self):
        # The program resolved their configs, so that this compares what it makes of a file with what is read here.
        checked = 0
        for path in sorted(STUDIES.glob("*.yaml")):
            study = read_study(path)
            if results := read_results(study):
                self.assertEqual(results_of_study(study, results)[1], {}, path.name)
                checked += len(results)
        self.assertGreaterEqual(checked, 6)


class Parents(unittest.TestCase):
    TRUNK = make_run("trunk", seeds=(1,), train__steps=400)
    CHILD = replace(make_run("child", seeds=(1,), parent="trunk", optimizer__lr=0.001), parent_step=200)
    LEAF = replace(make_run("leaf", seeds=(1,), parent="child"), parent_step=100)

    def results(self, **other):
        parent = {"run": "trunk", "seed": 1, "step": 200, "config_hash": "hash of trunk", "tokens": 200 * BATCH, "flops": 1.0}
        return [make_result(self.TRUNK, 1, 2.0), make_result(self.CHILD, 1, 1.9, steps=100, parent=parent | other)]

    def changes(self, runs, results):
        return results_of_study(make_study(runs), results)[1]

    def test_a_parent_that_is_another(self):
        runs = [self.TRUNK, self.CHILD]
        self.assertEqual(self.changes(runs, self.results()), {})
        for other, words in (({"step": 100}, "parent_step: 100 then, 200 now"), ({"run": "stem"}, "parent: stem then, trunk now"),
                             ({"prepare": ["cut"]}, "prepare: ['cut'] then, None now"),
                             ({"config_hash": "older"}, "the parent's config is another")):
            with self.subTest(other=other):
                self.assertEqual(self.changes(runs, self.results(**other)), {("child", 1): [words]})
        self.assertEqual(self.changes([replace(self.TRUNK), replace(self.CHILD, parent=None, parent_step=None)], self.results()),
                         {("child", 1): ["a parent: trunk then, None now"]})

    def test_the_last_step_of_a_parent(self):
        runs = [self.TRUNK, replace(self.CHILD, parent_step=None)]
        self.assertEqual(self.changes(runs, self.results()), {("child", 1): ["parent_step: 200 then, 400 now"]})
        self.assertEqual(self.changes(runs, self.results(step=400)), {})

    def test_children_of_a_result_of_another_config_go_with_it(self):
        results = self.results()
        parent = results[1]["parent"] | {"run": "child", "step": 100, "config_hash": "hash of child"}
        results.append(make_result(self.LEAF, 1, 1.8, steps=50, parent=parent))
        now = replace(self.TRUNK, overrides={"train.steps": 500})
        self.assertEqual(self.changes([now, self.CHILD, self.LEAF], results), {
            ("trunk", 1): ["train.steps: 400 then, 500 now"],
            **{(name, 1): ["it starts from trunk, whose result is of another config"] for name in ("child", "leaf")}})


class InTheReport(unittest.TestCase):
    def test_they_are_named_and_in_no_number(self):
        results = two_runs()
        other = json.loads(json.dumps(results[4]))
        other["config"]["optimizer.lr"] = 0.5
        other["evaluations"][-1]["values"] = {key: 99.0 for key in other["evaluations"][-1]["values"]}
        data, comparisons, _, _ = analyse(make_study([DENSE, MOE]), [*results[:4], other, results[5]], None)
        self.assertEqual(sorted(comparisons["moe"].differences["heldout"].by_seed), [1, 3])
        self.assertAlmostEqual(data.mean_final(data.by_name["moe"], "heldout").value, 1.9)
        self.assertEqual(warning_text(data, comparisons),
                         "Results of another config than the study has now, left out: moe seed 2 (optimizer.lr: 0.5 then, 0.002 "
                         "now). Differences to the baseline are of the seeds that both have: moe.")

    def test_result_files_of_no_run_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder, "runs")
            runs.mkdir()
            for name in ("dense-seed_1", "gone-seed_1", "dense-seed_9"):
                (runs / f"{name}.json").write_text("{}")
            write_report(make_study([DENSE, MOE]), two_runs(), None, folder)
            self.assertIn("Result files of no run of the study, left out: dense-seed_9.json and gone-seed_1.json.",
                          Path(folder, "index.html").read_text())

    def test_where_all_are_nothing_is_reported(self):
        now = [replace(run, overrides=run.overrides | {"train.steps": 7}) for run in (DENSE, MOE)]
        with self.assertRaisesRegex(ReportError, "every result is of another config than study synthetic has now: dense seed 1: "
                                                 "train.steps: "):
            analyse(make_study(now), two_runs(), None)

    def test_seeds_of_different_configs_that_no_file_names_are_refused(self):
        results = two_runs()
        results[4] |= {"config": results[4]["config"] | {"model.norm_eps": 1e-6}, "config_hash": "another"}
        with self.assertRaisesRegex(ReportError, r"run moe: seeds 1 and 2 are of different configs \(model.norm_eps\); olmoe-study"):
            analyse(make_study([DENSE, MOE]), results, None)
        results = two_runs()
        results[5]["data"] = {"train": "c3", "evaluation": None}
        with self.assertRaisesRegex(ReportError, r"run moe: seeds 1 and 3 are of different configs \(train tokens\)"):
            analyse(make_study([DENSE, MOE]), results, None)

    def test_step_times_of_another_config_are_left_out(self):
        times = make_times(dense=(0.1, 0.2, 0.3), moe=(0.4,))
        times["rounds"][1]["config_hash"] = "older"
        data = analyse(make_study([DENSE, MOE]), two_runs(), times)[0]
        self.assertEqual([run.rounds for run in data.runs], [[0.1, 0.3], [0.4]])


if __name__ == "__main__":
    unittest.main(warnings="error")

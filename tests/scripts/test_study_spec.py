"""Studies as they are written: what is read, expanded and refused by name."""
import re
import unittest
from pathlib import Path

from study_case import REPOSITORY, StudyTest

from study.programs import Programs, as_argument, error_of
from study.spec import read_study
from study.yaml_reader import StudyError, read_yaml


class Spec(StudyTest):
    def read(self, text):
        return read_study(self.study(text))

    def assert_refused(self, text, words):
        with self.assertRaises(StudyError) as caught:
            self.read(text)
        self.assertIn(words, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))

    def test_what_a_study_says_and_what_it_leaves_out(self):
        study = self.read("""\
paper: Section 4
seeds: [1, 2]
overrides: {optimizer: {lr: 1e-3}, train.steps: 5}
baseline: b
hardware: {gpu: h100, gpus: 8}
launch: {command: "mpirun -n {ranks} {program} {config} {overrides}", ranks: 8}
report: {metrics: [dead_experts], fits: [{kind: lr_u_curve}], smooth_steps: 50}
runs:
  - {name: a, overrides: {train.steps: 6}}
  - {name: b, label: the second, seeds: [3], config: other.yaml}
""")
        a, b = study.runs
        self.assertEqual((a.overrides, a.seeds, a.label), ({"optimizer.lr": 0.001, "train.steps": 6}, (1, 2), "a"))
        self.assertEqual((b.overrides["train.steps"], b.seeds, b.label), (5, (3,), "the second"))
        self.assertEqual((a.config, b.config), (self.folder / "tiny.yaml", self.folder / "other.yaml"))
        self.assertEqual((study.folder, study.results), (self.folder / "runs", self.folder / "runs_results"))
        self.assertEqual(study.launch.command, ("mpirun", "-n", "{ranks}", "{program}", "{config}", "{overrides}"))
        self.assertEqual((study.baseline, study.hardware.gpus, study.launch.jobs), ("b", 8, 1))
        self.assertEqual(study.report, {"metrics": ["dead_experts"], "axes": ["tokens", "flops", "time"],
                                        "fits": [{"kind": "lr_u_curve"}], "smooth_steps": 50})
        self.assertEqual(self.read("runs: [{name: a}]\n").baseline, "a")

    def test_ranks_are_those_of_the_hardware_or_of_one_process(self):
        command = "launch: {command: 'mpirun -n {ranks} {program} {config} {overrides}'}\n"
        submit = "launch: {submit: 'sbatch {overrides}', status: 'sacct {job}'}\n"
        for text, ranks in {"": 1, "launch: {ranks: 2}\n": 2, "hardware: {gpu: h100, gpus: 8}\n": 8, submit: None,
                            command + "hardware: {gpu: h100, gpus: 8}\n": 8,
                            "launch: {ranks: 8}\nhardware: {gpu: h100, gpus: 8}\n": 8}.items():
            self.assertEqual(self.read("runs: [{name: a}]\n" + text).launch.ranks, ranks, text)

    def test_the_examples_of_the_page_are_studies(self):
        blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/studies.md").read_text(), re.DOTALL)
        example, *launches = blocks
        (self.folder / "example.yaml").write_text(example)
        self.assertEqual([run.name for run in read_study(self.folder / "example.yaml").runs], ["routed", "shared"])
        ranks, slurm = (self.read(text + "runs: [{name: a}]\n").launch for text in launches)
        self.assertEqual((ranks.ranks, ranks.submit, slurm.jobs), (2, None, 0))

    def test_a_grid_is_a_product_over_runs_and_over_trees(self):
        alone = self.read("grid: {optimizer.lr: [1e-3, 2.0e-3], model.width: [8]}\n")
        self.assertEqual([run.name for run in alone.runs], ["lr=0.001,width=8", "lr=0.002,width=8"])
        self.assertEqual(alone.runs[1].grid, {"optimizer.lr": 0.002, "model.width": 8})
        tree = self.read("runs: [{name: trunk}, {name: fork, parent: trunk, parent_step: 5}]\ngrid: {optimizer.lr: [1, 2]}\n")
        self.assertEqual([(run.name, run.parent) for run in tree.runs],
                         [("trunk-lr=1", None), ("fork-lr=1", "trunk-lr=1"), ("trunk-lr=2", None), ("fork-lr=2", "trunk-lr=2")])
        self.assertEqual(tree.runs[3].overrides, {"optimizer.lr": 2})
        same = self.read("grid: {optimizer.lr: [1], schedule.lr: [2]}\n")
        self.assertEqual(same.runs[0].name, "optimizer.lr=1,schedule.lr=2")

    def test_what_is_wrong_is_named_by_key(self):
        for text, words in {
                "runs: []\n": "runs: a study has runs, a grid, or both",
                "runs: [{name: a}]\nseed: [1]\n": "seed: unknown key",
                "runs: [{name: a, overides: {}}]\n": "runs[0].overides: unknown key",
                "runs: [{name: a}, {name: a}]\n": "runs: two are called a",
                "runs: [{name: a/b}]\n": "runs[0].name: 'a/b': letters, digits",
                "runs: [{name: a}]\nseeds: [1, 1]\n": "seeds: one of them stands twice",
                "runs: [{name: a}]\nseeds: 1\n": "seeds: expected a list, not 1",
                "runs: [{name: a, overrides: {run: {seed: 3}}}]\n": "runs[0].overrides.run.seed: is set by the study",
                "runs: [{name: a, parent: b}]\n": "runs: a: its parent b is no run of the study",
                "runs: [{name: a, parent: b}, {name: b, parent: a}]\n": "runs: a is its own ancestor: a <- b <- a",
                "runs: [{name: a}, {name: b, parent: a, seeds: [7]}]\n": "runs: b: its parent a has no seed 7",
                "runs: [{name: a, parent_step: 5}]\n": "runs[0].parent: is required with parent_step",
                "runs: [{name: a}, {name: b, parent: a, prepare: [x]}]\n": "runs[1].prepare: does not name the {target}",
                "runs: [{name: a}]\nbaseline: c\n": "baseline: c is no run of the study: a",
                "runs: [{name: a, overrides: {x.y: 1}}]\ngrid: {x.y: [1]}\n": "grid.x.y: is an override of a",
                "grid: {x.y: 1}\n": "grid.x.y: expected a list of values",
                "grid: {x.y: [[1, 2]]}\n": "grid: y=[1, 2] cannot be the name of a run",
                "runs: [{name: a}]\nlaunch: {submit: 'sbatch {overrides}'}\n": "launch.submit: and status belong together",
                "runs: [{name: a}]\nlaunch: {command: 'x {nodes} {overrides}'}\n": "launch.command: unknown placeholder {nodes}",
                "runs: [{name: a}]\nlaunch: {command: 'x {config}'}\n": "launch.command: has no {overrides}",
                "runs: [{name: a}]\nlaunch: {command: 'x y{overrides}'}\n": "{overrides} must be a word of its own",
                "runs: [{name: a}]\nlaunch: {retries: -1}\n": "launch.retries: is -1, and must be at least 0",
                "runs: [{name: a}]\nhardware: {gpu: h100}\n": "hardware.gpus: is required",
                "runs: [{name: a}]\nhardware: {gpu: h100, gpus: 8}\nlaunch: {ranks: 4}\n":
                    "launch.ranks: is 4, and hardware.gpus 8: every GPU has one rank",
                "runs: [{name: a}]\nlaunch: {command: 'mpirun -n {ranks} {program} {config} {overrides}'}\n":
                    "launch.ranks: is required, for {ranks}, without hardware.gpus",
                "runs: [{name: a}]\nreport: {fits: [{kind: cubic}]}\n": "report.fits: each has a kind, of lr_u_curve",
                "runs: [{name: a}]\nreport: {fits: [{kind: power_law, y: 1}]}\n": "report.fits: power_law has no key y",
                "runs: [{name: a}]\nreport: {axes: [steps]}\n": "report.axes: 'steps' is none of tokens, flops, time",
                "runs: [{name: a}]\nruns: [{name: b}]\n": "line 7: runs stands twice",
                "runs: [{name: a}\n": "study.yaml: line "}.items():
            with self.subTest(text):
                self.assert_refused(text, words)
        with self.assertRaisesRegex(StudyError, "absent.yaml: cannot be read: No such file"):
            read_study(self.folder / "absent.yaml")

    def test_numbers_and_words_are_those_of_configs(self):
        read = read_yaml("[1e-3, 1.5, .5, 1E6, 7, 010, -3, true, null, on, off, yes, 1_000, 12:30, '5']", "x")
        self.assertEqual(read, [0.001, 1.5, 0.5, 1e6, 7, 10, -3, True, None, "on", "off", "yes", "1_000", "12:30", "5"])

    def test_overrides_as_a_program_reads_them(self):
        for value, text in {12: "12", 0.001: "0.001", True: "true", None: "null", "moe": "moe", "": "", "a b": '"a b"',
                            "true": '"true"', "5": '"5"', "x/y.npy": "x/y.npy"}.items():
            self.assertEqual(as_argument("k", value), f"k={text}")
        self.assertEqual(as_argument("k", [{"a": 1}, "b"]), 'k=[{"a": 1}, "b"]')

    def test_a_program_that_is_missing_is_named(self):
        path = self.study("runs: [{name: a}]\n")
        for name, option in (("olmoe-train", "--program"), ("olmoe-plan", "--plan-program")):
            with self.subTest(name):
                kept = self.programs[name]
                self.programs[name] = self.folder / "nowhere" / name
                code, text = self.outcome("run", path)
                self.assertEqual(code, 2)
                self.assertIn(f"error: there is no program {self.folder}/nowhere/{name}: build it (docs/quickstart.md), or name "
                              f"{name} with {option}", text)
                self.programs[name] = kept
        with self.assertRaisesRegex(StudyError, "there is no program /nonexistent/olmoe-train"):
            Programs.find({"program": Path("/nonexistent/olmoe-train")})

    def test_the_errors_of_a_program_without_the_time_of_day(self):
        self.assertEqual(error_of("start\n2026-11-30 09:29:06.905 error modle: unknown key\nx: too small\n"),
                         "modle: unknown key; x: too small")
        self.assertEqual(error_of("notice: memory: too much\nend\n"), "memory: too much")
        self.assertEqual((error_of("a\nb\n"), error_of("")), ("b", "it said nothing"))


if __name__ == "__main__":
    unittest.main()

"""olmoe-study with the real olmoe-train and olmoe-plan: parameters, refusals, upcycling; the studies of configs/."""
import signal
import unittest

from study_case import PROGRAM, REPOSITORY, RealProgramTest

from study.plan import ask_about_all, in_order, join_runs, resolve
from study.programs import Programs
from study.spec import read_study

STUDIES = REPOSITORY / "configs" / "studies"
QUESTIONS = {"moe_vs_dense", "granularity", "shared_expert", "expert_choice", "load_balancing", "z_loss", "qk_norm", "norm_type",
             "init", "adamw_eps", "weight_decay", "upcycling", "muon_vs_adamw", "lr_ladder", "decay_branches"}
NOT_ASKED = {"missing_files": 0, "data": {}, "parameters": {}, "flops_per_token": 0.0, "step_s": None}
MOST_STEPS = 100 * 1000 + 6 * 1500  # of all tiny studies together: 100 runs, of which the six of moe_vs_dense have 2,500


class RealProgram(RealProgramTest):
    def test_parameters_and_flops_are_those_of_the_program_and_a_broken_config_is_named(self):
        path = self.study("runs: [{name: moe}, {name: dense, overrides: {model.ffn: dense}}]\n")
        code, said = self.outcome("plan", path)
        self.assertEqual(code, 0, said)
        rows = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
        self.assertEqual((rows["moe"][1:3], rows["dense"][1:3]), (["25,120", "18,976"], ["18,720", "18,720"]))
        path = self.study("runs: [{name: moe}, {name: a, overrides: {model.top_k: 9}}, {name: b, overrides: {modle.x: 1}}]\n")
        code, said = self.outcome("run", path)
        self.assertEqual(code, 2, said)
        self.assertIn("model.top_k: 9 is more than model.num_experts = 4", said)
        self.assertIn("; b: modle: unknown key", said)
        self.assertFalse((self.folder / "runs").exists())

    def test_a_dense_parent_becomes_a_model_with_experts(self):
        self.run_study(self.study("""\
overrides: {train.steps: 10, model.qk_norm: none, model.renormalize_scores: true}
runs:
  - {name: dense, overrides: {model.ffn: dense}}
  - {name: up, parent: dense, overrides: {model.num_experts: 4, model.top_k: 2, model.expert_width: 32},
     prepare: [olmoe-checkpoint, upcycle, "{parent}", "{target}", --experts, "4", --top-k, "2"]}
"""))
        dense, up = self.result("dense"), self.result("up")
        self.assertEqual(up["tokens"], 2 * dense["tokens"])
        self.assertAlmostEqual(up["flops"], dense["flops"] + 10 * 4 * 32 * up["flops_per_token"])
        self.assertLess(abs(up["series"]["loss"][0] - dense["series"]["loss"][-1]), 0.5)
        self.assertGreater(dense["series"]["loss"][0], up["series"]["loss"][0])

    def test_ranks_that_mpirun_starts_save_and_leave_when_the_study_is_stopped_and_resume(self):
        text = """\
overrides: {train.steps: 300, checkpoint.every_steps: 0}
launch: {ranks: 2, retry_wait_s: 0, command: "mpirun --allow-run-as-root --oversubscribe --bind-to none -n {ranks} {program} {config} {overrides}"}
runs: [{name: a}]
"""
        self.run_study(self.study(text, "other.yaml", "other"))
        path = self.study(text)
        first = self.start("run", path)
        self.wait_until(lambda: self.steps_of("a") >= 20, first)
        first.process.terminate()
        self.assertEqual(first.wait(), 128 + signal.SIGTERM, first.text())
        stopped_at = self.steps_of("a")
        self.assertTrue((self.folder / f"runs/a/seed_6198/checkpoints/step_{stopped_at:09d}/manifest.json").exists())
        self.assertLess(stopped_at, 300)
        self.run_study(path)
        self.assertEqual(self.results(), self.results("other"))

    def test_every_study_of_the_repository_is_there_in_two_sizes_with_configs_that_the_program_takes(self):
        self.assertEqual({path.stem for path in STUDIES.iterdir()}, QUESTIONS | {f"{name}-tiny" for name in QUESTIONS})
        programs, steps = Programs.find({"program": PROGRAM, "plan_program": PROGRAM.parent / "olmoe-plan"}), 0
        for path in sorted(STUDIES.iterdir()):
            with self.subTest(path.name):
                study = read_study(path)
                self.assertEqual((study.name, study.results.name, study.folder.name), (path.stem,) * 3)
                runs = in_order(study.runs)
                configs, refused = ask_about_all(runs, lambda run: resolve(run, programs)[1])
                found, problems = join_runs(runs, {name: NOT_ASKED | {"config": one} for name, one in configs.items()}, {}, study.launch.ranks)
                self.assertEqual(refused | problems, {})
                if path.stem.endswith("-tiny"):
                    self.assertEqual({run.config.name for run in study.runs}, {"tiny-cpu.yaml"})
                    self.assertIsNone(study.hardware)
                    steps += sum(len(run.seeds) * (one.steps - one.first_step) for run in study.runs for one in [found[run.name]])
                else:
                    self.assertEqual(study.hardware.gpu, "h100")
        self.assertLessEqual(steps, MOST_STEPS)


if __name__ == "__main__":
    unittest.main()

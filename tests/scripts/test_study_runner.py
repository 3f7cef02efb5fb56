"""olmoe-study run: what fails, is done, was changed, is made by a command, and is timed."""
import json
import shutil
import unittest

from study_case import StudyTest


class Failed(StudyTest):
    STUDY = "launch: {retries: 2, retry_wait_s: 0}\nruns: [{name: a}, {name: b}, {name: c, parent: b, parent_step: 20}]\n"

    def fails(self, run, times, code=1, step=15):
        (self.control / f"fail_{run}").write_text(f"{times} {code} {step}")

    def test_a_run_that_fails_is_started_again_as_often_as_it_may(self):
        self.fails("b", 2)
        text = self.run_study(self.study(self.STUDY))
        self.assertIn("b seed 6198: exit code 1, step 14 of 30: made up failure at step 15; it is started again", text)
        self.assertIn("try 3", text)
        self.assertEqual(len(self.results()), 3)

    def test_a_run_that_fails_for_good_is_named_with_its_children_and_the_others_are_done(self):
        self.fails("b", 3)
        path = self.study(self.STUDY.replace("{name: a}, {name: b}", "{name: b}, {name: a}"))
        text = self.run_study(path, expected=3)
        self.assertIn("not done: b seed 6198: exit code 1, step 14 of 30: made up failure at step 15 (after 3 tries; ", text)
        self.assertIn("not done: c seed 6198: its parent b failed", text)
        self.assertEqual(list(self.results()), ["a-seed_6198.json"])
        self.assertIn("failed, step 14 of 30: exit code 1", self.outcome("status", path)[1])
        self.run_study(path)  # whoever starts the study again lets it try again
        self.assertEqual(len(self.results()), 3)

    def test_what_another_try_cannot_cure_is_not_tried_again(self):
        for code in (2, 3):
            with self.subTest(code):
                self.fails("a", 1, code)
                path = self.study(self.STUDY, folder=f"runs_{code}")
                text = self.run_study(path, expected=3)
                self.assertIn(f"not done: a seed 6198: exit code {code}, step 14 of 30: made up failure at step 15 (after 1 try", text)

    def test_a_run_that_ends_well_too_early_is_no_result(self):
        self.fails("a", 9, 0)
        text = self.run_study(self.study(self.STUDY), expected=3)
        self.assertIn("a seed 6198: exit code 0, step 14 of 30", text)


class Done(StudyTest):
    STUDY = "runs: [{name: a}, {name: b, parent: a, parent_step: 20, overrides: {optimizer.lr: 0.1}}]\n"

    def test_results_alone_count_as_done_in_a_fresh_clone(self):
        path = self.study(self.STUDY)
        self.run_study(path)
        before = self.results()
        shutil.rmtree(self.folder / "runs")
        self.assertIn("2 of 2 runs are done", self.run_study(path))
        self.assertFalse((self.folder / "runs" / "a").exists())
        self.assertEqual(self.results(), before)
        status = self.outcome("status", path)[1]
        self.assertRegex(status, r"a +6198 +done\n")

    def test_a_parent_that_is_done_runs_again_where_a_child_needs_its_checkpoint(self):
        path = self.study(self.STUDY)
        self.run_study(path)
        before = self.results()
        shutil.rmtree(self.folder / "runs")
        (self.folder / "runs_results/runs/b-seed_6198.json").unlink()
        self.slow(60)
        started = self.start("run", path)
        self.wait_until(lambda: "a seed 6198: done, but its checkpoint of step 20 is not here: it runs again" in started.text() and
                        self.runs_alive(), started)
        started.process.kill()  # while it does
        self.kill_runs()
        self.slow(0)
        self.run_study(path)
        self.assertEqual(self.results(), before)

    def test_a_checkpoint_that_was_removed_is_named(self):
        path = self.study(self.STUDY)
        self.run_study(path)
        shutil.rmtree(self.folder / "runs/b")
        shutil.rmtree(self.folder / "runs/a/seed_6198/checkpoints")
        (self.folder / "runs_results/runs/b-seed_6198.json").unlink()
        self.assertIn("a/seed_6198/checkpoints/step_000000020 is not there, from which b seed 6198 starts: move ",
                      self.run_study(path, expected=2))

    def test_another_config_than_that_of_a_result_is_named_and_nothing_runs(self):
        self.run_study(self.study(self.STUDY))
        shutil.rmtree(self.folder / "runs")
        path = self.study("overrides: {model.width: 9}\n" + self.STUDY)
        text = self.run_study(path, expected=2)
        self.assertIn("a-seed_6198.json is of another config than the study has now (model.width: 8 then, 9 now)", text)
        self.assertIn("b-seed_6198.json is of another config than the study has now (model.width: 8 then, 9 now; what it "
                      "starts from: another config_hash)", text)
        self.assertIn("result of another config: model.width", self.outcome("status", path)[1])
        self.assertFalse((self.folder / "runs" / "a").exists())

    def test_another_config_than_that_of_a_run_that_was_begun_is_named(self):
        (self.control / "fail_a").write_text("1 2 15")
        self.run_study(self.study(self.STUDY), expected=3)
        text = self.run_study(self.study("overrides: {optimizer.lr: 0.3}\n" + self.STUDY.replace(
            ", overrides: {optimizer.lr: 0.1}", "")), expected=2)
        self.assertIn("runs/a/seed_6198 is of another config than the study has now (optimizer.lr: 0.5 then, 0.3 now)", text)

    def test_another_place_or_way_of_saving_is_the_same_config(self):
        self.run_study(self.study(self.STUDY))
        path = self.study("overrides: {checkpoint.every_steps: 5, parallel.zero_stage: 1}\n" + self.STUDY)
        self.assertIn("2 of 2 runs are done", self.run_study(path))

    def test_other_tokens_are_another_run(self):
        (self.folder / "tokens.npy").write_bytes(b"a" * 1000)
        path = self.study("overrides: {data.paths: [tokens.npy], data.synthetic: false}\n" + self.STUDY)
        self.run_study(path)
        (self.folder / "tokens.npy").write_bytes(b"b" * 1000)
        self.assertIn("data: other token files (train)", self.run_study(path, expected=2))
        (self.folder / "tokens.npy").unlink()
        self.assertIn("2 of 2 runs are done", self.run_study(path))


class Prepared(StudyTest):
    STUDY = """\
runs:
  - {name: dense}
  - {name: up, parent: dense, prepare: [olmoe-checkpoint, "{parent}", "{target}", "{seed}"], overrides: {model.width: 16}}
"""

    def test_a_run_starts_from_what_a_command_makes_of_its_parent(self):
        self.script("olmoe-checkpoint", 'test "$3" = 6198 && cp -r "$1" "$2" && touch "$2/made"')
        self.run_study(self.study(self.STUDY))
        self.assertTrue((self.folder / "runs/up/seed_6198.start/made").exists())
        up = self.result("up")
        self.assertEqual((up["tokens"], up["parent"]["tokens"], up["series"]["step"][0]), (60 * 64, 30 * 64, 1))
        self.assertEqual(up["flops"], 30 * 64 * 24000.0 + 30 * 64 * 48000.0)

    def test_a_command_that_fails_is_named(self):
        self.script("olmoe-checkpoint", "echo no such thing; exit 4")
        text = self.run_study(self.study("launch: {retries: 1, retry_wait_s: 0}\n" + self.STUDY), expected=3)
        self.assertIn("not done: up seed 6198: the command that prepares it failed: no such thing (after 2 tries", text)


class Reported(StudyTest):
    def test_the_report_is_made_of_the_results_that_are_there(self):
        path = self.study("seeds: [1, 2]\nruns: [{name: a}, {name: b, overrides: {optimizer.lr: 0.1}}]\n")
        code, text = self.outcome("report", path)
        self.assertEqual((code, "runs_results/runs has no result yet" in text), (2, True), text)
        self.run_study(path)
        self.programs = {}  # none is asked: a report needs no build
        code, text = self.outcome("report", path)
        self.assertEqual(code, 0, text)
        page = (self.folder / "runs_results" / "index.html").read_text()
        self.assertIn("Does it?", page)
        self.assertIn("held", page)


class Timed(StudyTest):
    def test_step_times_are_of_the_runs_in_turn_and_rounds_are_added(self):
        path = self.study("runs: [{name: a}, {name: b}]\n")
        for rounds in (1, 2):
            code, text = self.outcome("time", path, "--rounds", "1", "--steps", "8")
            self.assertEqual(code, 0, text)
            found = json.loads((self.folder / "runs_results/step_time.json").read_text())
            self.assertEqual([one["run"] for one in found["rounds"]], ["a", "b"] * rounds)
            self.assertEqual({one["s_per_step"] for one in found["rounds"]}, {64 / 1e4})
            self.assertRegex(found["machine"], r"^\d+ cores, ")
        self.assertEqual(list((self.folder / "runs" / "step_time" / "a").glob("seed_6198")), [])
        path = self.study("runs: [{name: a}, {name: b, overrides: {model.width: 9}}]\n")
        self.assertEqual(self.outcome("time", path, "--rounds", "1", "--steps", "8")[0], 0)
        found = json.loads((self.folder / "runs_results/step_time.json").read_text())
        self.assertEqual([one["run"] for one in found["rounds"]], ["a", "a", "a", "b"])  # those of another b are gone


if __name__ == "__main__":
    unittest.main()

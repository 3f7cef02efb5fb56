"""olmoe-study run: what fails, is done, was changed, is made by a command, and is timed."""
import json
import shutil
import unittest

from study_case import StudyTest

from study.run_log import end_of, last_error, versions_of


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


class Diverged(StudyTest):
    STUDY = """\
launch: {retry_wait_s: 0}
runs: [{name: a}, {name: b}, {name: c, parent: b, parent_step: 10}, {name: d, parent: c, parent_step: 20, overrides: {train.steps: 40}}]
"""

    def setUp(self):
        super().setUp()
        (self.control / "fail_b").write_text("1 72 15")

    def test_it_is_a_result_up_to_its_last_step_and_its_children_are_named(self):
        path = self.study(self.STUDY)
        text = self.run_study(path)
        self.assertIn("b seed 6198: diverged at step 15 of 30, which is its result (2 of 4): made up failure at step 15", text)
        self.assertIn("not done: c seed 6198: its parent b diverged\nnot done: d seed 6198: its parent c was not started", text)
        result = self.result("b")
        self.assertEqual((result["format"], result["diverged"], result["steps"]), (1, 15, 14))
        self.assertEqual((result["tokens"], result["flops"]), (14 * 64, 14 * 64 * 24000.0))
        self.assertEqual((result["series"]["step"][-1], result["series"]["tokens"][-1]), (14, 14 * 64))
        self.assertEqual([one["step"] for one in result["evaluations"]], [10])
        self.assertNotIn("diverged", self.result("a"))
        self.assertNotIn("c seed 6198: started", text)
        status = self.outcome("status", path)[1]
        self.assertRegex(status, r"b +6198  done: diverged at step 15 of 30\nc +6198  not done: its parent b diverged\n"
                                 r"d +6198  not done: its parent's parent b diverged\n")

    def test_it_is_done_in_a_fresh_clone_and_not_run_again(self):
        path = self.study("overrides: {data.paths: [absent.npy]}\n" + self.STUDY)
        (self.folder / "absent.npy").write_bytes(b"a" * 1000)
        self.run_study(path)
        shutil.rmtree(self.folder / "runs")
        (self.folder / "absent.npy").unlink()  # nothing is left to run: no tokens are asked for
        before = self.results()
        text = self.run_study(path)
        self.assertIn("2 of 4 runs are done, 1 of them diverged", text)
        self.assertIn("not done: c seed 6198: its parent b diverged", text)
        self.assertEqual((self.results(), list((self.folder / "runs").glob("*/seed_*"))), (before, []))

    def test_one_that_diverges_at_its_first_step_has_no_series(self):
        (self.control / "fail_b").write_text("1 72 1")
        self.run_study(self.study(self.STUDY))
        result = self.result("b")
        self.assertEqual((result["diverged"], result["steps"], result["tokens"], result["flops"]), (1, 0, 0, 0.0))
        self.assertEqual((result["series"], result["evaluations"]), ({"bin_steps": 1, "step": [], "tokens": []}, []))

    def test_a_child_that_diverges_counts_through_its_fork(self):
        (self.control / "fail_b").unlink()
        (self.control / "fail_c").write_text("1 72 25")
        self.run_study(self.study(self.STUDY))
        result = self.result("c")
        self.assertEqual((result["diverged"], result["steps"], result["tokens"]), (25, 14, 24 * 64))

    def test_a_parent_that_runs_again_for_its_checkpoint_and_diverges_now_keeps_its_result(self):
        (self.control / "fail_b").unlink()
        path = self.study(self.STUDY)
        self.run_study(path)
        before = self.results()
        shutil.rmtree(self.folder / "runs")
        for child in "cd":
            (self.folder / f"runs_results/runs/{child}-seed_6198.json").unlink()
        (self.control / "fail_b").write_text("9 72 15")
        text = self.run_study(path, expected=3)
        self.assertIn("not done: b seed 6198: it diverged at step 15, though its result of another day says otherwise", text)
        self.assertEqual(self.results()["b-seed_6198.json"], before["b-seed_6198.json"])


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


class Begun(StudyTest):
    """Only folders that the study began itself are gone on with."""

    def test_a_folder_that_it_did_not_begin_is_named_and_nothing_runs(self):
        path = self.study("runs: [{name: a}, {name: b}]\n")
        (self.control / "fail_b").write_text("1 2 15")
        self.run_study(path, expected=3)
        (self.folder / "runs/b/seed_6198.json").unlink()
        (self.folder / "runs_results/runs/a-seed_6198.json").unlink()
        text = self.run_study(path, expected=2)
        self.assertIn(f"error: {self.folder}/runs/b/seed_6198 was not begun by this study: it has no seed_6198.json beside it", text)
        self.assertEqual((self.results(), self.steps_of("b")), ({}, 14))
        self.assertIn("runs/b/seed_6198 was not begun by this study", self.outcome("status", path)[1])

    def test_a_parent_that_would_run_again_in_another_ones_folder_is_named(self):
        path = self.study(Done.STUDY)
        self.run_study(path)
        shutil.rmtree(self.folder / "runs")
        (self.folder / "runs_results/runs/b-seed_6198.json").unlink()
        (self.folder / "runs/a/seed_6198").mkdir(parents=True)
        self.assertIn("runs/a/seed_6198 was not begun by this study: ", self.run_study(path, expected=2))

    def test_what_a_run_would_start_from_is_its_own_too(self):
        path = self.study(Prepared.STUDY)
        (self.folder / "runs/up/seed_6198.start").mkdir(parents=True)
        self.assertIn("runs/up/seed_6198.start was not begun by this study: ", self.run_study(path, expected=2))


class Logs(StudyTest):
    """A result has the versions of the programs that trained it, not of the one that is there when it is written; a failure the
    last try's error."""

    def version(self, text):
        (self.control / "version").write_text(text)

    def test_of_a_run_that_another_version_resumed_both(self):
        (self.control / "fail_a").write_text("1 2 15")
        self.version("1.0 (abc)")
        path = self.study("runs: [{name: a}]\n")
        self.run_study(path, expected=3)
        self.version("1.1 (def)")
        self.run_study(path)
        self.version("1.2 (012)")
        self.assertEqual(self.result("a")["version"], "1.0 (abc), 1.1 (def)")

    def test_of_a_run_that_had_ended_before_the_study_looked(self):
        self.version("1.0 (abc)")
        path = self.study("runs: [{name: a}]\n")
        self.run_study(path)
        (self.folder / "runs_results/runs/a-seed_6198.json").unlink()
        self.version("1.1 (def)")
        self.run_study(path)
        self.assertEqual(self.result("a")["version"], "1.0 (abc)")

    def test_logs(self):
        log = self.folder / "a.log"
        self.assertEqual(versions_of(log), "unknown")
        start = "2026-11-30 16:58:18.875 info olmoe-train {}\nmesh: world 1\n"
        new, resumed = (f"2026-11-30 16:58:19.550 info {words} x\n" for words in ("new run in", "resuming from"))
        for text, found in (("", "unknown"), (start.format("1 (a)"), "unknown"), (start.format("1 (a)") + new, "1 (a)"),
                            (resumed, "unknown"), (resumed + start.format("1 (a)") + resumed, "unknown, 1 (a)"),
                            (start.format("1 (a)") + new + start.format("1 (a)") + resumed, "1 (a)"),
                            (start.format("1 (a)") + new + start.format("2 (b)") + new, "2 (b)"),
                            (start.format("1 (a)") + new + start.format("2 (b)") + "error x\n" + start.format("3 (c)") + resumed,
                             "1 (a), 3 (c)")):
            log.write_text(text)
            self.assertEqual(versions_of(log), found, text)


    def test_the_error_of_a_log_that_is_added_to_or_written_anew(self):
        log, line = self.folder / "a.log", "2026-11-30 16:58:18.875 error {}\n"
        self.assertEqual(last_error(log, end_of(log)), "it has no log")
        log.write_text(line.format("first"))
        before = end_of(log)
        for anew in ("", "x" * 10, "x" * 200, "x" * 2000):
            log.write_text(line.format(f"second{anew}"))
            self.assertEqual(last_error(log, before), f"second{anew}")
        log.write_text(line.format("first") + line.format("second"))
        self.assertEqual(last_error(log, before), "second")


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

    def test_what_a_killed_command_left_is_made_anew(self):
        made = self.folder / "made"
        self.script("olmoe-checkpoint", f'test ! -e "$2" && mkdir "$2" && touch {made} && while [ -e {made} ]; do sleep 0.05; done\n'
                                        'cp -r "$1"/* "$2"')
        path = self.study(self.STUDY)
        first = self.start("run", path)
        self.wait_until(made.exists, first)
        first.process.kill()
        self.end_processes()
        self.script("olmoe-checkpoint", 'test ! -e "$2" && cp -r "$1" "$2"')
        self.run_study(path)
        self.assertEqual(self.result("up")["steps"], 30)
        self.assertEqual(list((self.folder / "runs/up").glob("*.part")), [])

    def test_a_command_that_makes_nothing_is_named(self):
        self.script("olmoe-checkpoint", "exit 0")
        text = self.run_study(self.study("launch: {retries: 0}\n" + self.STUDY), expected=3)
        self.assertIn("not done: up seed 6198: the command that prepares it made no {target}", text)

    def test_another_config_than_that_of_what_was_made_is_named(self):
        self.script("olmoe-checkpoint", 'cp -r "$1" "$2"')
        (self.control / "fail_up").write_text("1 2 1")
        self.run_study(self.study(self.STUDY), expected=3)
        shutil.rmtree(self.folder / "runs/up/seed_6198")
        text = self.run_study(self.study(self.STUDY.replace("width: 16", "width: 32")), expected=2)
        self.assertIn("up/seed_6198.start is of another config than the study has now (model.width: 16 then, 32 now)", text)

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

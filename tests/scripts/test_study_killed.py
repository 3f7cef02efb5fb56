"""olmoe-study run: a study or a run that is killed, or runs beside another one."""
import os
import signal
import unittest

from study_case import StudyTest

TREE = """\
seeds: [1, 2]
overrides: {checkpoint.every_steps: 5}
runs:
  - {name: trunk}
  - {name: low, parent: trunk, parent_step: 20, overrides: {optimizer.lr: 0.1}}
  - {name: lower, parent: low, parent_step: 25, overrides: {optimizer.lr: 0.01}}
  - {name: batch, parent: trunk, parent_step: 10, overrides: {train.global_batch_size: 8, train.init_progress: restart, train.steps: 12}}
"""


class Killed(StudyTest):
    def untouched(self, text):
        self.run_study(self.study(text, "other.yaml", "other"))
        return self.results("other")

    def test_a_study_and_a_run_that_are_killed_resume_with_the_results_of_one_that_nobody_touched(self):
        text = "launch: {retry_wait_s: 0}\nruns: [{name: a}, {name: b, overrides: {optimizer.lr: 0.7}}]\n"
        expected = self.untouched(text)
        path = self.study(text)
        self.slow(0.03)
        first = self.start("run", path)
        self.wait_until(lambda: self.steps_of("a") >= 15, first)
        os.kill(first.process.pid, signal.SIGKILL)
        self.kill_runs()
        second = self.start("run", path)
        self.wait_until(lambda: self.steps_of("b") >= 15, second)
        self.kill_runs()  # the run alone: it is started again
        self.assertEqual(second.wait(), 0, second.text())
        self.assertIn("ended by signal 9, step 1", second.text())
        self.assertEqual(self.results(), expected)

    def test_a_run_that_outlives_its_study_is_waited_for_and_not_started_twice(self):
        text = "runs: [{name: a}, {name: b}]\n"
        expected = self.untouched(text)
        path = self.study(text)
        self.slow(0.1)
        first = self.start("run", path)
        self.wait_until(lambda: self.steps_of("a") >= 5, first)
        self.slow(60)
        os.kill(first.process.pid, signal.SIGKILL)
        alive = self.runs_alive()
        self.assertTrue(alive)
        self.assertIn("running, step ", self.outcome("status", path)[1])
        second = self.start("run", path)
        self.wait_until(lambda: "still running; waiting" in second.text(), second)
        self.slow(0)
        self.assertEqual(second.wait(), 0, second.text())
        self.assertNotIn("a seed 6198: started", second.text())
        self.assertEqual(self.results(), expected)

    def test_a_tree_that_is_killed_again_and_again_counts_through_its_forks(self):
        expected = self.untouched(TREE)
        path = self.study(TREE)
        self.slow(0.01)
        for run, steps in (("trunk", 12), ("low", 5), ("lower", 2), ("batch", 3)):
            started = self.start("run", path)
            self.wait_until(lambda: self.steps_of(run, 1) >= steps or self.steps_of(run, 2) >= steps, started)
            os.kill(started.process.pid, signal.SIGKILL)
            self.kill_runs()
        self.run_study(path)
        self.assertEqual(self.results(), expected)
        tokens, flops = 4 * 16, 4 * 16 * 3.0 * 8000  # of a step
        for seed in (1, 2):
            self.assertEqual(self.result("trunk", seed)["tokens"], 30 * tokens)
            lower = self.result("lower", seed)
            self.assertEqual((lower["tokens"], lower["flops"]), (30 * tokens, 30 * flops))
            self.assertEqual((lower["steps"], lower["series"]["step"]), (5, [26, 27, 28, 29, 30]))
            self.assertEqual(lower["series"]["tokens"][0], 26 * tokens)
            batch = self.result("batch", seed)
            self.assertEqual((batch["tokens"], batch["flops"]), ((10 + 2 * 12) * tokens, (10 + 2 * 12) * flops))
            self.assertEqual(batch["series"]["tokens"][0], 12 * tokens)
            self.assertEqual([batch["parent"][key] for key in ("run", "seed", "step", "tokens", "flops")],
                             ["trunk", seed, 10, 10 * tokens, 10 * flops])
            self.assertEqual(batch["evaluations"][-1]["tokens"], 34 * tokens)

    def test_a_signal_lets_runs_save_and_the_study_resumes(self):
        path = self.study("runs: [{name: a}]\n")
        self.slow(0.05)
        first = self.start("run", path)
        self.wait_until(lambda: self.steps_of("a") >= 3, first)
        first.process.terminate()
        self.assertEqual(first.wait(), 128 + signal.SIGTERM, first.text())
        self.assertEqual(self.runs_alive(), [])
        self.slow(0)
        self.run_study(path)


class OneAtATime(StudyTest):
    def test_two_studies_on_one_folder_are_refused(self):
        path = self.study("runs: [{name: a}]\n")
        self.slow(0.1)
        first = self.start("run", path)
        self.wait_until(lambda: self.steps_of("a") >= 1, first)
        for command in ("run", "time"):
            text = self.start(command, path)
            self.assertEqual(text.wait(), 2)
            self.assertRegex(text.text(), rf"error: \S+/runs is in use by process {first.process.pid} on host {os.uname().nodename} "
                                          r"since \d{4}-")
        self.slow(0)
        self.assertEqual(first.wait(), 0, first.text())

    def test_as_many_runs_as_jobs_at_one_time(self):
        path = self.study("launch: {jobs: 2}\nruns: [{name: a}, {name: b}, {name: c}]\n")
        self.slow(0.05)
        started = self.start("run", path)
        self.wait_until(lambda: self.steps_of("a") >= 1 and self.steps_of("b") >= 1, started)
        self.assertNotIn("c seed 6198: started", started.text())
        self.assertEqual(started.wait(), 0, started.text())


if __name__ == "__main__":
    unittest.main()

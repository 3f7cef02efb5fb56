"""olmoe-study run with a batch system: jobs are submitted once each, and followed to their end."""
import os
import shutil
import signal
import unittest

from study_case import StudyTest

from study import launchers
from study.launchers import LOOKS

LAUNCH = """\
launch: {{submit: '{sbatch} "{{command}}" {{log}} {{job_name}}', status: '{status} {{job}}', poll_s: 0.05, retries: 1, retry_wait_s: 0}}
"""
RUNS = "runs: [{name: a}, {name: b}, {name: c, parent: a, parent_step: 20, overrides: {optimizer.lr: 0.1}}]\n"


class Submitted(StudyTest):
    def setUp(self):
        super().setUp()
        self.jobs = self.folder / "jobs"
        self.jobs.mkdir()
        # As sbatch --parsable and sacct -n -X -P -o State,ExitCode -j: a job lives on by itself, and is known after its end.
        self.sbatch = self.script("sbatch", f"""\
cd "{self.jobs}" && mkdir lock || exit 1
id=$(($(ls | grep -c name) + 100)); echo "$3" > $id.name; echo 'RUNNING|0:0' > $id.state; rmdir lock
(cd "{self.folder}"; setsid sh -c "$1; code=\\$?
  if [ \\$code = 0 ]; then state=COMPLETED; else state=FAILED; fi; echo \\"\\$state|\\$code:0\\" > '{self.jobs}/$id.state'" \\
  > "$2" 2>&1 < /dev/null &)
[ -e "{self.control}/slow_sbatch" ] && sleep 1
echo "$id;cluster" """)
        self.status = self.script("status", f'cat "{self.jobs}/$1.state"')

    def submitted_study(self, runs=RUNS):
        return self.study(LAUNCH.format(sbatch=self.sbatch, status=self.status) + runs)

    def names(self):
        """Names of all jobs that were submitted."""
        return sorted(path.read_text().strip() for path in self.jobs.glob("*.name"))

    def expected(self):
        self.run_study(self.study(RUNS, "local.yaml", "local"))
        return self.results("local")

    def test_jobs_are_followed_to_their_end_and_children_wait_for_their_parents(self):
        expected = self.expected()
        self.slow(0.03)
        started = self.start("run", self.submitted_study())
        self.wait_until(lambda: len(self.names()) == 2, started)
        self.wait_until(lambda: self.steps_of("a") > 1, started)
        self.slow(60)
        self.assertEqual(self.names(), ["trial-a-6198", "trial-b-6198"])
        self.assertRegex(self.outcome("status", "study.yaml")[1], r"a +6198 +submitted as job 10\d;cluster, step \d+ of 30\n")
        self.slow(0)
        self.assertEqual(started.wait(), 0, started.text())
        self.assertEqual(self.names(), ["trial-a-6198", "trial-b-6198", "trial-c-6198"])
        self.assertEqual(self.results(), expected)

    def test_a_study_that_is_killed_follows_its_jobs_again_and_submits_none_twice(self):
        expected = self.expected()
        path = self.submitted_study()
        self.slow(60)
        first = self.start("run", path)
        self.wait_until(lambda: "b seed 6198: submitted" in first.text(), first)
        os.kill(first.process.pid, signal.SIGKILL)
        second = self.start("run", path)
        self.wait_until(lambda: second.text().count("following job") == 2, second)
        self.slow(0)
        self.assertEqual(second.wait(), 0, second.text())
        self.assertEqual(self.names(), ["trial-a-6198", "trial-b-6198", "trial-c-6198"])
        self.assertEqual(self.results(), expected)

    def test_a_study_that_is_killed_while_it_submits_does_not_submit_again(self):
        path = self.submitted_study("runs: [{name: a}]\n")
        (self.control / "slow_sbatch").touch()
        first = self.start("run", path)
        self.wait_until(lambda: len(self.names()) == 1, first)
        os.kill(first.process.pid, signal.SIGKILL)
        self.assertEqual((self.folder / "runs/a/seed_6198.job").read_text(), "")  # the submission has not said its id yet
        text = self.run_study(path)
        self.assertIn("a seed 6198: following job 100", text)
        self.assertEqual(self.names(), ["trial-a-6198"])

    def test_a_submission_of_which_nothing_is_known_is_named(self):
        path = self.submitted_study("runs: [{name: a}]\n")
        job = self.folder / "runs/a/seed_6198.job"
        job.parent.mkdir(parents=True)
        job.touch()
        text = self.run_study(path, expected=2)
        self.assertIn("a/seed_6198.job is empty: whether the run was submitted is not known", text)
        self.assertEqual(self.names(), [])

    def test_a_job_that_fails_is_submitted_again_and_named_when_all_tries_are_over(self):
        (self.control / "fail_a").write_text("1 1 15")
        (self.control / "fail_b").write_text("9 1 15")
        text = self.run_study(self.submitted_study(), expected=3)
        self.assertIn("a seed 6198: FAILED, exit code 1, step 14 of 30: made up failure at step 15; it is started again", text)
        self.assertIn("not done: b seed 6198: FAILED, exit code 1, step 14 of 30: made up failure at step 15 (after 2 tries", text)
        self.assertEqual(self.names(), ["trial-a-6198"] * 2 + ["trial-b-6198"] * 2 + ["trial-c-6198"])
        self.assertEqual(sorted(self.results()), ["a-seed_6198.json", "c-seed_6198.json"])

    def test_what_another_try_cannot_cure_is_not_submitted_again(self):
        for code in (2, 3):
            (self.control / "fail_a").write_text(f"1 {code} 15")
            text = self.run_study(self.study(LAUNCH.format(sbatch=self.sbatch, status=self.status) + "runs: [{name: a}]\n",
                                             folder=f"runs_{code}"), expected=3)
            self.assertIn(f"not done: a seed 6198: FAILED, exit code {code}, step 14 of 30: made up failure at step 15 (after 1 "
                          "try", text)
        self.assertEqual(self.names(), ["trial-a-6198"] * 2)

    def test_a_job_that_diverges_is_a_result(self):
        (self.control / "fail_a").write_text("1 72 15")
        text = self.run_study(self.submitted_study())
        self.assertIn("a seed 6198: diverged at step 15 of 30", text)
        self.assertEqual(self.result("a")["diverged"], 15)
        self.assertEqual(self.names(), ["trial-a-6198", "trial-b-6198"])

    def follow(self, *states):
        """The study of one run, whose job's states are told in turn, a look each, before its real one."""
        told = self.folder / "told"
        told.write_text("\n".join(states) + "\n")
        status = self.script("told_status", f'''\
if [ -s "{told}" ]; then head -n 1 "{told}"; tail -n +2 "{told}" > "{told}.new"; mv "{told}.new" "{told}"
else cat "{self.jobs}/$1.state"; fi''')
        text = self.run_study(self.study(LAUNCH.format(sbatch=self.sbatch, status=status) + "runs: [{name: a}]\n"))
        self.assertEqual(told.read_text(), "", "the job was given up early")
        return text

    def test_a_job_that_is_put_back_into_the_queue_is_followed_and_not_submitted_twice(self):
        for number, states in enumerate((
                ["RUNNING|0:0", "PENDING|0:0", "RUNNING|0:0"], ["REQUEUED|0:0", "REQUEUE_HOLD|0:0", "PENDING|0:0"],
                ["NODE_FAIL|1:0"] * 4 + ["PENDING|0:0"] + ["NODE_FAIL|1:0"] * 4 + ["RUNNING|0:0"],
                ["PREEMPTED|0:0", "PREEMPTED|0:0", "PENDING|0:0"],
                ["FAILED|75:0", "REQUEUED|75:0", "PENDING|0:0"], ["FAILED|71:0", "PENDING|0:0"])):
            with self.subTest(states):
                self.follow(*states)
                self.assertEqual(self.names(), ["trial-a-6198"] * (number + 1))
                for folder in ("runs", "runs_results"):
                    shutil.rmtree(self.folder / folder)

    def test_a_job_that_is_not_put_back_is_submitted_again(self):
        (self.control / "fail_a").write_text("1 1 15")
        text = self.follow(*["RUNNING|0:0"], *["NODE_FAIL|1:0"] * LOOKS)
        self.assertIn("a seed 6198: NODE_FAIL, exit code 1, ", text)
        self.assertEqual(self.names(), ["trial-a-6198"] * 2)

    def test_a_state_that_is_cut_off_is_named(self):
        self.status = self.script("status", "echo ' OUT_OF_ME+ '")
        text = self.run_study(self.submitted_study("runs: [{name: a}]\n"), expected=2)
        self.assertIn("error: launch.status prints 'OUT_OF_ME+', a state that is cut off: let it print all, as sacct -P does", text)

    def test_states_as_sacct_prints_them(self):
        for text, ended in {"COMPLETED|0:0\n": ("COMPLETED", 0), "FAILED|72:0\n": ("FAILED", 72), "COMPLETED\n": ("COMPLETED", None),
                            "CANCELLED by 1000|0:15\n": ("CANCELLED", -15), "OUT_OF_MEMORY|0:125\n": ("OUT_OF_MEMORY", -125),
                            "TIMEOUT|0:0\n": ("TIMEOUT", 0), "FAILED|2:0\nCOMPLETED|0:0\n": ("FAILED", 2)}.items():
            found = launchers.read_state(text)
            self.assertEqual((found.text, found.code), ended, text)
        for text in ("", "\n", "RUNNING|0:0", "PENDING|0:0", "REQUEUED|0:0", "COMPLETING|0:0", "SUSPENDED|0:0", "RESIZING|0:0"):
            self.assertIsNone(launchers.read_state(text), text)
        self.assertEqual([launchers.read_state(text).describe() for text in ("TIMEOUT|0:0", "FAILED|3:0", "CANCELLED by 0|0:9")],
                         ["TIMEOUT", "FAILED, exit code 3", "CANCELLED, ended by signal 9"])

    def test_a_batch_system_that_does_not_answer_is_asked_again(self):
        answers = self.folder / "answers"
        answers.write_text("squeue: error\n")
        self.status = self.script("status", f'if [ -s "{answers}" ]; then : > "{answers}"; echo error >&2; exit 1; fi\n'
                                            f'cat "{self.jobs}/$1.state"')
        self.run_study(self.submitted_study("runs: [{name: a}]\n"))
        self.assertEqual(answers.read_text(), "")
        self.assertEqual(self.names(), ["trial-a-6198"])

    def test_a_submission_that_fails_is_tried_again(self):
        self.sbatch = self.script("sbatch", "echo sbatch: error: no such partition >&2; exit 1")
        text = self.run_study(self.submitted_study("runs: [{name: a}]\n"), expected=3)
        self.assertIn("not done: a seed 6198: it could not be submitted: sbatch: error: no such partition (after 2 tries", text)


if __name__ == "__main__":
    unittest.main()

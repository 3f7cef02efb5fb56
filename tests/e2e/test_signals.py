"""Signals of every name, at every moment: docs/failures.md has the table. A run that a signal made save and leave goes
on bit for bit."""
import array
import os
import shutil
import signal
import time
import unittest

from support import PROGRAM, REPOSITORY, TINY, ProgramTest, checkpoints, last_step, step_lines

PREEMPTED = 75
SLOW = "train.global_batch_size=24"
LONG_STEP = "train.global_batch_size=5000"  # some seconds
SAVE_AND_LEAVE = ("TERM", "INT", "HUP", "USR1", "USR2", "XCPU")
GO_ON = ("PIPE", "XFSZ", "CHLD", "URG", "WINCH", "CONT")
END_AT_ONCE = ("QUIT", "ABRT", "ALRM", "VTALRM", "PROF", "ILL", "FPE", "SEGV", "BUS", "SYS", "TRAP", "IO", "PWR",
               "STKFLT", "KILL")
WITHOUT_CORE = ("bash", "-c", 'ulimit -c 0; exec "$0" "$@"', PROGRAM)


def number(name):
    return getattr(signal, "SIG" + name)


class SignalTest(ProgramTest):
    def at_work(self, *overrides, name="run", **how):
        """A job that has trained three steps and has many to go."""
        run = self.folder / name
        job = self.start(self.config, f"run.folder={run}", "train.steps=100000", SLOW, *overrides, **how)
        job.wait_until(lambda: last_step(run) >= 3)
        return job

    def assert_saves_and_resumes(self, job, ranks):
        """`job` was sent its signal."""
        run = self.folder / "run"
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        stopped = last_step(run)
        self.assertEqual(checkpoints(run), [stopped], "the step it was in is saved, and no other")
        steps = f"train.steps={stopped + 3}"
        self.train("run", steps, SLOW, ranks=ranks)
        straight = self.train("straight", steps, SLOW, ranks=ranks)
        self.assertEqual(step_lines(run), step_lines(straight))

    def send(self, sent, ranks, rank):
        job = self.at_work(ranks=ranks)
        self.assertEqual(len(job.ranks()), ranks or 1)
        os.kill(job.ranks()[rank], sent)
        self.assert_saves_and_resumes(job, ranks)

    def in_a_long_step(self):
        """A job in the first step, long enough that every answer comes within it."""
        job = self.start(self.config, "run.folder=run", LONG_STEP)
        job.wait_until(lambda: "new run in run" in job.text())
        time.sleep(0.3)
        return job


class ToMpirun(SignalTest):
    def test_usr1_to_mpirun(self):
        job = self.at_work(ranks=2)
        os.kill(job.process.pid, signal.SIGUSR1)
        self.assert_saves_and_resumes(job, ranks=2)

    def test_term_to_a_bare_mpirun_saves(self):
        """mpirun hands it on late and then leaves with 1, whatever its ranks leave with (decision 002)."""
        job = self.at_work(ranks=2)
        os.kill(job.process.pid, signal.SIGTERM)
        job.wait()
        run = self.folder / "run"
        self.assertEqual(checkpoints(run), [last_step(run)], job.text())


class ToOneRank(SignalTest):
    def test_term_to_one_rank(self):
        self.send(signal.SIGTERM, ranks=2, rank=1)

    def test_int_to_one_rank(self):
        self.send(signal.SIGINT, ranks=2, rank=0)

    def test_term_without_mpirun(self):
        self.send(signal.SIGTERM, ranks=0, rank=0)


class ToLaunchScript(SignalTest):
    def test_term_to_the_launch_script(self):
        job = self.at_work(program=(REPOSITORY / "scripts" / "launch.sh", "-n", "2"),
                           environment={"OMPI_MCA_mpi_yield_when_idle": "1"})
        os.kill(job.process.pid, signal.SIGTERM)
        self.assert_saves_and_resumes(job, ranks=2)


class EveryName(SignalTest):
    def test_every_signal_has_its_answer_here(self):
        named = {number(name) for name in (*SAVE_AND_LEAVE, *GO_ON, *END_AT_ONCE, "STOP", "TSTP", "TTIN", "TTOU")}
        self.assertEqual(named, {each for each in range(1, 32)})

    def test_those_that_save_and_leave(self):
        for name in SAVE_AND_LEAVE:
            with self.subTest(name):
                job = self.at_work(name=name)
                os.kill(job.process.pid, number(name))
                self.assertEqual(job.wait(), PREEMPTED, job.text())
                self.assertIn(f"SIG{name}: this step is finished and saved", job.text())
                self.assertIn(f"received SIG{name}: saving step", job.text())
                self.assertEqual(checkpoints(self.folder / name), [last_step(self.folder / name)])

    def test_those_that_a_run_goes_on_after(self):
        job = self.at_work()
        for name in (*GO_ON, *GO_ON, "STOP", "TSTP"):
            os.kill(job.process.pid, number(name))
            os.kill(job.process.pid, signal.SIGCONT)
            before = last_step(self.folder / "run")
            job.wait_until(lambda: last_step(self.folder / "run") > before + 1)
        os.kill(job.process.pid, signal.SIGTERM)
        self.assert_saves_and_resumes(job, ranks=0)

    def test_all_others_end_at_once(self):
        for name in END_AT_ONCE:
            with self.subTest(name):
                job = self.at_work(name=name, program=WITHOUT_CORE)
                os.kill(job.process.pid, number(name))
                self.assertEqual(job.wait(), -number(name), job.text())
                self.assertEqual(checkpoints(self.folder / name), [])

    def test_a_run_under_nohup_outlives_its_terminal(self):
        job = self.at_work(program=("nohup", PROGRAM))
        os.kill(job.process.pid, signal.SIGHUP)
        before = last_step(self.folder / "run")
        job.wait_until(lambda: last_step(self.folder / "run") > before + 3)
        os.kill(job.process.pid, signal.SIGTERM)
        self.assert_saves_and_resumes(job, ranks=0)


class Twice(SignalTest):
    def test_the_answer_comes_at_once_and_a_second_one_changes_nothing(self):
        job = self.in_a_long_step()
        for name in ("TERM", "TERM", "USR1", "INT", "INT"):
            os.kill(job.process.pid, number(name))
            job.wait_until(lambda: f"SIG{name}: this step is finished and saved" in job.text())
        self.assertEqual(last_step(self.folder / "run"), 0, "the step ended before the answer came")
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        self.assertEqual(checkpoints(self.folder / "run"), [1])

    def test_a_second_int_that_a_person_sends_ends_at_once(self):
        job = self.in_a_long_step()
        os.kill(job.process.pid, signal.SIGINT)
        time.sleep(1.1)
        os.kill(job.process.pid, signal.SIGINT)
        self.assertEqual(job.wait(), -signal.SIGINT, job.text())
        self.assertEqual(last_step(self.folder / "run"), 0)
        self.assertEqual(checkpoints(self.folder / "run"), [])


class Moments(SignalTest):
    LARGE = ("model.vocab_size=200000", "model.d_model=64")  # its start and its saves take a while

    def test_while_it_starts(self):
        for ranks, rank in ((0, 0), (2, 1)):
            with self.subTest(ranks=ranks):
                job = self.start(self.config, "run.folder=run", "train.steps=9", *self.LARGE, ranks=ranks)
                job.wait_until(lambda: "mesh: world" in job.text())
                os.kill(job.ranks()[rank], signal.SIGTERM)
                self.assertEqual(job.wait(), PREEMPTED, job.text())
                self.assertIn("SIGTERM: nothing was trained yet, so there is nothing to save", job.text())
                self.assertEqual(last_step(self.folder / "run"), 0)

    def test_during_a_save(self):
        run = self.folder / "run"
        job = self.start(self.config, "run.folder=run", "train.steps=9", "checkpoint.every_steps=2", *self.LARGE,
                         "checkpoint.async=false")
        job.wait_until(lambda: list(run.glob("checkpoints/.tmp_step_*")))
        os.kill(job.process.pid, signal.SIGTERM)
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        self.assertIn("SIGTERM: the checkpoint that is being written is finished", job.text())
        self.assertEqual((checkpoints(run), last_step(run)), ([2], 2))

    def test_while_a_save_is_written_beside_training(self):
        run = self.folder / "run"
        job = self.start(self.config, "run.folder=run", "train.steps=99", "checkpoint.every_steps=2", "checkpoint.keep=0",
                         *self.LARGE)
        job.wait_until(lambda: list(run.glob("checkpoints/.tmp_step_*")))
        os.kill(job.process.pid, signal.SIGTERM)
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        self.assertEqual(checkpoints(run)[0], 2, "the save in flight is finished")
        self.assertEqual(checkpoints(run)[-1], last_step(run), "and so is the step")

    def test_a_finished_run_that_is_asked_to_stop_is_finished(self):
        run = self.folder / "run"
        job = self.start(self.config, "run.folder=run", "train.steps=2", *self.LARGE)
        job.wait_until(lambda: list(run.glob("checkpoints/.tmp_step_*")))
        os.kill(job.process.pid, signal.SIGTERM)
        self.assertEqual(job.wait(), 0, job.text())
        self.assertEqual(checkpoints(run), [2])


class Evaluation(SignalTest):
    def setUp(self):
        super().setUp()
        ids = array.array("H", [(7 * i) % 64 for i in range(16 * 2500)])
        (self.folder / "held_out.npy").write_bytes(ids.tobytes())
        self.config = self.write_config(TINY + "evaluation: {paths: [held_out.npy], every_steps: 4}\n")

    def evaluating(self, ranks, *overrides):
        """A job in the evaluation after step 4."""
        run = self.folder / "run"
        job = self.start(self.config, "run.folder=run", *overrides, ranks=ranks)
        job.wait_until(lambda: last_step(run) == 4)
        time.sleep(0.2)
        return job

    def assert_goes_on(self, steps, ranks):
        """The next start makes up for the evaluation, and all lines are those of a run that was not stopped."""
        self.train("run", f"train.steps={steps}", ranks=ranks)
        straight = self.train("straight", f"train.steps={steps}", ranks=ranks)
        lines = step_lines(self.folder / "run")
        self.assertEqual(lines, step_lines(straight))
        self.assertEqual(sum("eval/held_out/loss" in line for line in lines), 1 if steps == 4 else 2)

    def test_the_last_step_is_saved_before_it_is_evaluated(self):
        job = self.evaluating(0, "train.steps=4")
        job.wait_until(lambda: checkpoints(self.folder / "run") == [4])
        job.kill()
        self.assertNotIn("held-out loss", job.text(), "it was evaluated before it was saved")
        self.assert_goes_on(4, ranks=0)
        code, text = self.outcome(self.config, "run.folder=run", "train.steps=4")
        self.assertEqual(code, 0, text)
        self.assertIn("nothing to do", text)

    def test_a_signal_is_looked_at_between_batches(self):
        for ranks, rank in ((0, 0), (2, 1)):
            with self.subTest(ranks=ranks):
                job = self.evaluating(ranks, "train.steps=6")
                os.kill(job.ranks()[rank], signal.SIGTERM)
                self.assertEqual(job.wait(), PREEMPTED, job.text())
                if rank == 0:
                    self.assertIn("SIGTERM: the evaluation stops after this batch", job.text())
                self.assertNotIn("held-out loss", job.text())
                self.assertEqual(checkpoints(self.folder / "run"), [4])
                self.assert_goes_on(6, ranks)
                shutil.rmtree(self.folder / "run")
                shutil.rmtree(self.folder / "straight")


if __name__ == "__main__":
    unittest.main()

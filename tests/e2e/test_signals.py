"""A signal makes a run save the step it is in and leave with 75; the next start goes on bit for bit."""
import os
import signal
import unittest

from support import REPOSITORY, ProgramTest, checkpoints, last_step, step_lines

PREEMPTED = 75
SLOW = "train.global_batch_size=24"


class SignalTest(ProgramTest):
    def at_work(self, **how):
        """A job that has trained three steps and has many to go."""
        run = self.folder / "run"
        job = self.start(self.config, f"run.folder={run}", "train.steps=100000", SLOW, **how)
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


class ToMpirun(SignalTest):
    def test_usr1_to_mpirun(self):
        job = self.at_work(ranks=2)
        os.kill(job.process.pid, signal.SIGUSR1)
        self.assert_saves_and_resumes(job, ranks=2)


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


if __name__ == "__main__":
    unittest.main()

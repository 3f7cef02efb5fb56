"""A signal makes a run save the step it is in and leave with 75; the next start goes on bit for bit."""
import os
import signal
import unittest

from support import ProgramTest, checkpoints, last_step, step_lines

PREEMPTED = 75
SLOW = "train.global_batch_size=24"


class Signals(ProgramTest):
    def assert_saves_and_resumes(self, send, ranks):
        """`send` gets the job at work and sends its signal."""
        run = self.folder / "run"
        job = self.start(self.config, f"run.folder={run}", "train.steps=100000", SLOW, ranks=ranks)
        job.wait_until(lambda: last_step(run) >= 3)
        self.assertEqual(len(job.ranks()), ranks or 1)
        send(job)
        self.assertEqual(job.wait(), PREEMPTED, job.text())
        stopped = last_step(run)
        self.assertEqual(checkpoints(run), [stopped], "the step it was in is saved, and no other")
        steps = f"train.steps={stopped + 3}"
        self.train("run", steps, SLOW, ranks=ranks)
        straight = self.train("straight", steps, SLOW, ranks=ranks)
        self.assertEqual(step_lines(run), step_lines(straight))

    def test_usr1_to_mpirun(self):
        self.assert_saves_and_resumes(lambda job: os.kill(job.process.pid, signal.SIGUSR1), ranks=2)

    def test_term_to_one_rank(self):
        self.assert_saves_and_resumes(lambda job: os.kill(job.ranks()[-1], signal.SIGTERM), ranks=2)

    def test_int_to_one_rank(self):
        self.assert_saves_and_resumes(lambda job: os.kill(job.ranks()[0], signal.SIGINT), ranks=2)

    def test_term_without_mpirun(self):
        self.assert_saves_and_resumes(lambda job: os.kill(job.process.pid, signal.SIGTERM), ranks=0)


if __name__ == "__main__":
    unittest.main()

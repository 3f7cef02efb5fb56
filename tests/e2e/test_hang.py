"""A rank that hangs ends the run with 71 after run.hang_timeout_s, and the ranks are compared; none is left over."""
import os
import signal
import socket
import subprocess
import time
import unittest

from support import PROGRAM, ProgramTest, last_step, processes_of

HANG = 71
TIMEOUT_S = 4
# Beyond the timeout: three beats of a twentieth each to see who is silent, then what mpirun takes to end the ranks.
SLACK_S = 15


class HangTest(ProgramTest):
    def at_work(self, ranks, *overrides):
        """A job that has trained three steps and has many to go."""
        job = self.start(self.config, "run.folder=run", "train.steps=100000", *overrides, ranks=ranks)
        job.wait_until(lambda: last_step(self.folder / "run") >= 3)
        return job

    def traces(self):
        return sorted(path.name for path in (self.folder / "run" / "traces").glob("*"))

    def assert_none_left(self, job):
        """mpirun kills the ranks and does not wait until the system has taken them away."""
        deadline = time.monotonic() + 5
        while processes_of(job.process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(processes_of(job.process.pid), [], "processes are left over")

    def stop_and_wait(self, rank):
        """Stops one of three ranks, and returns what the job said in the end."""
        job = self.at_work(3, f"run.hang_timeout_s={TIMEOUT_S}")
        processes = job.ranks()
        self.assertEqual(len(processes), 3)
        os.kill(processes[rank], signal.SIGSTOP)
        stopped = time.monotonic()
        self.assertEqual(job.wait(), HANG, job.text())
        took_s = time.monotonic() - stopped
        self.assertGreaterEqual(took_s, TIMEOUT_S)
        self.assertLess(took_s, TIMEOUT_S + SLACK_S)
        self.assert_none_left(job)
        return job.text(), processes[rank]

    def assert_names(self, text, process, rank):
        others = [other for other in range(3) if other != rank]
        self.assertEqual(text.count("the ranks hang: no collective call of rank"), 1, text)
        self.assertRegex(text, rf"rank {rank} \(\S+, pid {process}\): silent; when last heard of, ")
        self.assertRegex(text, rf"(ranks {others[0]}(, |-){others[1]}|rank {others[0]} \(.*\)): waiting in #\d+ \w+\.\w+ ")
        self.assertIn(f"look at rank {rank} first: stopped, dead", text)
        report = (self.folder / "run" / "traces" / "report.txt").read_text()
        self.assertIn(report.splitlines()[-1], text)


class Hang(HangTest):
    def test_a_stopped_rank_is_named(self):
        text, process = self.stop_and_wait(rank=1)
        self.assert_names(text, process, rank=1)

    def test_the_traces_of_a_killed_rank_can_be_compared(self):
        job = self.at_work(2, "run.hang_timeout_s=10")
        os.kill(job.ranks()[1], signal.SIGKILL)
        self.assertNotEqual(job.wait(), 0)
        self.assert_none_left(job)
        self.assertEqual(self.traces(), ["rank_00000.txt", "rank_00001.txt"])
        tool = PROGRAM.parent / "olmoe-traces"
        done = subprocess.run([tool, self.folder / "run" / "traces"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"rank[s]? 0.* #\d+ \w+\.\w+ ")
        self.assertIn("look at ", done.stdout)


class HangElsewhere(HangTest):
    """At rank 0, without a launcher, while the run starts, and for a moment only."""

    def test_a_stopped_rank_0_is_named_by_another(self):
        text, process = self.stop_and_wait(rank=0)
        self.assert_names(text, process, rank=0)

    def meeting(self, ranks):
        """The variables that a launcher other than mpirun would set, for each rank."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        return [{"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
                for rank in range(ranks)]

    def test_a_stopped_rank_is_named_without_a_launcher(self):
        jobs = [self.start(self.config, "run.folder=run", "train.steps=100000", f"run.hang_timeout_s={TIMEOUT_S}",
                           environment=environment) for environment in self.meeting(2)]
        jobs[0].wait_until(lambda: last_step(self.folder / "run") >= 3)
        os.kill(jobs[1].process.pid, signal.SIGSTOP)
        self.assertEqual(jobs[0].wait(), HANG, jobs[0].text())
        self.assertRegex(jobs[0].text(), rf"rank 1 \(\S+, pid {jobs[1].process.pid}\): silent; when last heard of, ")

    def start_stuck(self):
        """Arguments of two ranks, and a folder in which the second finds a pipe where it wants to read weights, and
        waits for ever. The first, elsewhere, finds nothing: ranks with other arguments would be refused before."""
        weights = self.folder / "elsewhere" / "weights"
        weights.mkdir(parents=True)
        os.mkfifo(weights / "config.json")
        return [self.config, f"run.folder={self.folder / 'run'}", f"run.hang_timeout_s={TIMEOUT_S}",
                "train.init_from=/proc/self/cwd/weights"], weights.parent

    def assert_ended_at_start(self, job, since):
        self.assertEqual(job.wait(), HANG, job.text())
        self.assertLess(time.monotonic() - since, TIMEOUT_S + SLACK_S)
        self.assertRegex(job.text(), r"the ranks hang while the run starts: rank 0 \(.*\) waits in #\d+ \w+\.\w+ ")
        self.assertEqual(self.traces(), [])

    def test_a_rank_that_stops_while_the_run_starts(self):
        arguments, elsewhere = self.start_stuck()
        job = self.start(*arguments, ":", "-n", "1", "-wdir", elsewhere, PROGRAM, *arguments, ranks=1)
        job.wait_until(lambda: "2 ranks on 1 host" in job.text() and len(job.ranks()) == 2)
        os.kill(job.ranks()[1], signal.SIGSTOP)
        self.assert_ended_at_start(job, time.monotonic())
        self.assert_none_left(job)

    def test_a_rank_that_dies_while_the_run_starts_without_a_launcher(self):
        arguments, elsewhere = self.start_stuck()
        jobs = [self.start(*arguments, environment=environment, program=("env", "-C", folder, PROGRAM))
                for folder, environment in zip((self.folder, elsewhere), self.meeting(2))]
        jobs[0].wait_until(lambda: "2 ranks on 1 host" in jobs[0].text())
        jobs[1].kill()
        self.assert_ended_at_start(jobs[0], time.monotonic())

    def test_a_stopped_rank_that_goes_on_in_time_ends_nothing(self):
        job = self.at_work(2, "run.hang_timeout_s=60")
        process = job.ranks()[1]
        os.kill(process, signal.SIGSTOP)
        before = last_step(self.folder / "run")
        time.sleep(1)
        os.kill(process, signal.SIGCONT)
        job.wait_until(lambda: last_step(self.folder / "run") > before + 3)
        os.kill(process, signal.SIGTERM)  # saves and leaves
        self.assertEqual(job.wait(), 75, job.text())
        self.assertEqual(self.traces(), [], "a run that ends well leaves no traces")


if __name__ == "__main__":
    unittest.main()

"""How ranks start: what they must have alike, one run in a folder, launchers and limits of the shell."""
import os
import shutil
import signal
import socket
import time
import unittest

from support import BARE_MPIRUN, PROGRAM, ProgramTest, checkpoints, last_step, step_lines

CONFIG = 2
CHECKPOINT = 4


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


class Alike(ProgramTest):
    def outcome_of_two(self, *second, first=()):
        """Two ranks with overrides of their own."""
        common = [self.config, "run.folder=run"]
        return self.outcome(*common, *first, ":", "-n", "1", PROGRAM, *common, *second, ranks=1, mpirun=BARE_MPIRUN)

    def test_two_ranks_with_other_values_are_refused_before_they_train(self):
        for override, words in {"optimizer.lr=0.1": "optimizer.lr: 0.01 on rank 0, 0.1 on rank 1.",
                                "train.steps=7": "train.steps: 5 on rank 0, 7 on rank 1.",
                                "evaluation.every_steps=2": "evaluation.every_steps: 0 on rank 0, 2 on rank 1.",
                                "parallel.replicate=2": "parallel.replicate: 1 on rank 0, 2 on rank 1.",
                                "--dry-run": "program: olmoe-train on rank 0, olmoe-train --dry-run",
                                "--ignore-unknown": "program: olmoe-train on rank 0, olmoe-train --ignore-unknown"
                                }.items():
            with self.subTest(override=override):
                code, text = self.outcome_of_two(override)
                self.assertEqual(code, CONFIG, text)
                self.assertEqual(text.count("the ranks of this run were not started alike: " + words), 1, text)
                self.assertNotIn("last collectives", text)
                self.assertFalse((self.folder / "run").exists())

    def test_what_may_differ_does(self):
        code, text = self.outcome_of_two("run.threads=2", "data.prefetch=3")
        self.assertEqual(code, 0, text)
        self.assertEqual(last_step(self.folder / "run"), 5)

    def test_ranks_without_a_launcher_are_refused_too(self):
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
        jobs = [self.start(self.config, f"optimizer.lr={lr}", environment=meeting | {"RANK": str(rank)})
                for rank, lr in enumerate((0.01, 0.02))]
        for job in jobs:
            self.assertEqual(job.wait(), CONFIG, job.text())
        self.assertIn("optimizer.lr: 0.01 on rank 0, 0.02 on rank 1.", jobs[0].text())


class OneRunInAFolder(ProgramTest):
    def at_work(self, ranks=0):
        job = self.start(self.config, "run.folder=run", "train.steps=100000", ranks=ranks)
        job.wait_until(lambda: last_step(self.folder / "run") >= 3)
        return job

    def assert_second_is_refused(self, ranks):
        job = self.at_work(ranks)
        run = self.folder / "run"
        config, traces = (run / "config.yaml").read_text(), sorted(os.listdir(run / "traces"))
        code, text = self.outcome(self.config, "run.folder=run", "run.seed=2", "train.steps=50", ranks=ranks)
        self.assertEqual(code, CONFIG, text)
        self.assertRegex(text, rf"run.folder: run is in use: process {job.ranks()[0]} on \S+, since \d+-\d+-\d+ \d+:")
        self.assertEqual((run / "config.yaml").read_text(), config)
        self.assertEqual(sorted(os.listdir(run / "traces")), traces)
        before = last_step(run)
        job.wait_until(lambda: last_step(run) > before)  # the first continues
        return job

    def test_a_second_run_is_refused_and_the_first_goes_on_to_its_end(self):
        job = self.assert_second_is_refused(ranks=0)
        os.kill(job.process.pid, signal.SIGTERM)
        self.assertEqual(job.wait(), 75, job.text())
        run = self.folder / "run"
        steps = last_step(run)
        self.assertEqual(checkpoints(run), [steps])
        self.assertEqual([line["step"] for line in self.metrics(run)], list(range(1, steps + 1)))
        self.assertFalse((run / "run.lock").exists())

    def test_under_mpirun_and_after_kill_9_the_next_start_is_not_kept_out(self):
        job = self.assert_second_is_refused(ranks=2)
        job.kill()
        begin = time.monotonic()
        self.train("run", "train.steps=2", ranks=2)
        self.assertLess(time.monotonic() - begin, 60)
        self.assertEqual(len(step_lines(self.folder / "run")), 2)

    def test_a_run_of_another_host_is_taken_over_once_it_renews_no_more(self):
        self.train("run", "train.steps=2", "checkpoint.every_steps=2")
        (self.folder / "run" / "run.lock").write_text("process 17 on node17, since 2026-01-01 00:00:00\n")
        begin = time.monotonic()
        job = self.start(self.config, "run.folder=run", "train.steps=3")
        job.wait_until(lambda: "waiting for 60 s: this run takes over unless the other renews its lease" in job.text())
        self.assertEqual(job.wait(), 0, job.text())
        self.assertGreater(time.monotonic() - begin, 60)
        self.assertIn("which did not renew it for 60 s", job.text())
        self.assertEqual(last_step(self.folder / "run"), 3)

    def test_a_run_that_lost_its_lease_saves_nothing_and_ends(self):
        for ranks in (0, 2):
            with self.subTest(ranks=ranks):
                job = self.at_work(ranks)
                lock = self.folder / "run" / "run.lock"
                self.assertEqual(len(lock.read_bytes()), 512)
                lock.with_name("other").write_text("process 17 on node17, since 2026-01-01 00:00:00\n")
                lock.with_name("other").replace(lock)
                self.assertEqual(job.wait(), CHECKPOINT, job.text())  # at the next renewal, within 10 s
                self.assertIn("run.lock, is lost: another process wrote it. This run saves nothing any more", job.text())
                self.assertEqual(checkpoints(self.folder / "run"), [])
                self.assertTrue(lock.exists())
                shutil.rmtree(self.folder / "run")

    def test_what_only_looks_takes_no_lease(self):
        self.at_work()
        for option in ("--dry-run", "--print-config"):
            code, text = self.outcome(self.config, "run.folder=run", option)
            self.assertEqual(code, 0, text)
        code, text = self.outcome(self.config, "run.folder=run", program=(PROGRAM.parent / "olmoe-doctor",))
        self.assertIn("\ngo\n", text.replace("no go", "go"), "the doctor comes to its verdict")


class LaunchersThatDie(ProgramTest):
    def assert_ranks_end_with(self, job, ranks):
        job.wait_until(lambda: last_step(self.folder / "run") >= 3)
        self.assertEqual(len(job.ranks()), ranks)
        os.kill(job.process.pid, signal.SIGKILL)
        begin = time.monotonic()
        while job.ranks() and time.monotonic() < begin + 30:
            time.sleep(0.02)
        self.assertLess(time.monotonic() - begin, 5, job.text())

    def test_ranks_end_when_mpirun_is_killed_and_the_next_start_is_not_kept_out(self):
        self.assert_ranks_end_with(self.start(self.config, "train.steps=100000", ranks=3), 3)
        begin = time.monotonic()
        self.train("run", "train.steps=2", ranks=3)
        self.assertLess(time.monotonic() - begin, 50)  # a lease of another host would expire after 60

    def test_ranks_end_when_another_launcher_is_killed(self):
        # A shell that starts ranks as torchrun does: nothing else tells them that it is gone.
        launcher = ("bash", "-c", 'RANK=0 "$0" "$@" & RANK=1 "$0" "$@" & RANK=2 "$0" "$@" & wait', PROGRAM)
        environment = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
        job = self.start(self.config, "train.steps=100000", program=launcher, environment=environment)
        self.assert_ranks_end_with(job, 3)
        self.assertIn(f"the launcher of this rank, process {job.process.pid}, has ended: so does the rank", job.text())


class Launchers(ProgramTest):
    def test_a_leftover_world_size_is_reported_at_once(self):
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
        for rank, waits in {"0": r"rank 0 of 2 waits at localhost:\d+ for rank 1: \d of 300 s \(RANK=0, WORLD_SIZE=2, ",
                            "1": r"rank 1 of 2 waits for rank 0 to listen at localhost:\d+: \d of 300 s \(RANK=1, "}.items():
            job = self.start(self.config, environment=meeting | {"RANK": rank})
            begin = time.monotonic()
            job.wait_until(lambda job=job: "unset RANK WORLD_SIZE" in job.text())
            self.assertLess(time.monotonic() - begin, 10)
            self.assertRegex(job.text(), waits)
            job.kill()
        code, text = self.outcome(self.config, environment={"WORLD_SIZE": "2"})
        self.assertEqual(code, CONFIG, text)
        self.assertIn("WORLD_SIZE=2 speaks of several ranks, but RANK is not set", text)

    def test_ranks_of_another_mpi_are_refused_by_name(self):
        for environment, words in (({"PMI_SIZE": "4", "PMI_RANK": "2"}, "PMI_SIZE=4: mpirun of MPICH or Intel MPI"),
                                   ({"PMIX_RANK": "1"}, "PMIX_RANK=1: a launcher started at least 2 ranks"),
                                   ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE=4: ")):
            with self.subTest(environment=environment):
                code, text = self.outcome(self.config, environment=environment)
                self.assertEqual(code, CONFIG, text)
                self.assertIn(words, text)
                self.assertIn("but this one joined 1 (MPI: Open MPI v", text)
                self.assertNotIn("last collectives", text)
                self.assertFalse((self.folder / "run").exists())

    def test_torchrun_inside_mpirun_is_refused_before_mpi_starts(self):
        torchrun = {"RANK": "0", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}
        code, text = self.outcome(self.config, ranks=2, environment=torchrun)
        self.assertEqual(code, CONFIG, text)
        self.assertIn("two launchers started this process: torchrun says 8 ranks (WORLD_SIZE, RANK), mpirun 2.", text)


class Limits(ProgramTest):
    def limited(self, limits, *overrides):
        """The program from a shell that sets `limits` first."""
        shell = ("bash", "-c", f'{limits}; exec "$@"', "bash", PROGRAM)
        return self.outcome(self.config, *overrides, program=shell)

    def test_threads_that_cannot_be_started_are_named_with_the_limits(self):
        # Stacks of 8 GiB in an address space of 6: no thread can be started, by us or by OpenMP.
        limits = "ulimit -s 8388608; ulimit -v 6000000"
        for overrides, what in ((("run.threads=2",), "the thread of the watchdog"),
                                (("run.threads=2", "run.hang_timeout_s=0"), "thread 1 of the 5 that a rank needs"),
                                (("run.threads=2", "run.hang_timeout_s=0", "checkpoint.after_save=true"),
                                 "thread 1 of the 6 that a rank needs")):
            code, text = self.limited(limits, *overrides)
            self.assertEqual(code, CONFIG, text)
            self.assertIn(f"cannot start {what}: Resource temporarily unavailable. Limits: ulimit -u ", text)
            self.assertIn("ulimit -v (address space, KiB) 6000000, ulimit -s (stack of a thread, KiB) 8388608", text)
            self.assertNotIn("last collectives", text)

    def test_files_too_small_for_a_checkpoint_are_refused_before_the_run_trains(self):
        code, text = self.limited("ulimit -f 8")
        self.assertEqual(code, CONFIG, text)
        self.assertRegex(text, r"a checkpoint file of this rank takes \d+ bytes, but this process may write 8192 a file")
        self.assertFalse((self.folder / "run").exists())

    def test_memory_that_cannot_be_had_is_reported_in_a_line(self):
        # As much as is planned for tensors, and nothing for the rest of the process.
        code, text = self.limited("ulimit -v 2000000", "model.d_model=1024", "model.vocab_size=50000")
        self.assertEqual(code, CONFIG, text)
        self.assertRegex(text, r"not enough memory: .* tried to allocate \d+ bytes.* \(ulimit -v allows 2048000000 bytes of ")
        self.assertNotIn("frame #", text)
        self.assertNotIn("last collectives", text)


class DryRunWords(ProgramTest):
    def test_a_dry_run_says_what_it_checked_and_what_not(self):
        code, text = self.outcome(self.config, "--dry-run")
        self.assertEqual(code, 0, text)
        self.assertIn("\nchecked: the config, the layout over ranks, memory, disk\nnot checked: run.folder and the files of its "
                      "checkpoints, ", text)
        (self.folder / "a.npy").write_bytes(bytes(64))
        code, text = self.outcome(self.config, "--dry-run", "data.synthetic=false", "data.paths=[a.npy]",
                                  "data.check_ids=false", "evaluation.paths=[a.npy]")
        self.assertEqual(code, 0, text)
        self.assertIn("\nchecked: the config, the layout over ranks, memory, disk, sizes of the training files that are here "
                      "(data.check_ids is off), sizes and ids of the evaluation files that are here\n", text)


if __name__ == "__main__":
    unittest.main()

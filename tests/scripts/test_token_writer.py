"""What scripts/tokenize.py leaves on a full disk, a signal or a kill, and the names that it writes."""
import os
import resource
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

from tokenize_case import SCRIPT, TokenizeCase, byte_ids, ids_of

# Six chunks of their own, then a stream that ends when the file `end` is there. More than two chunks a process must be under way before
# anything is written.
SLOW_INPUTS = [f"{i}.jsonl" for i in range(6)] + ["slow.jsonl.zst"]


class FullDiskTest(TokenizeCase):
    def test_nothing_is_left_and_the_error_says_where(self):
        self.write_documents("small.jsonl", ["x" * 500])  # fails when it is closed
        self.write_documents("large.jsonl", ["x" * 500] * 2000)  # fails when it is written
        for name, processes in (("small.jsonl", 1), ("large.jsonl", 1), ("large.jsonl", 2)):
            with self.subTest(name=name, processes=processes):
                command = [sys.executable, SCRIPT, name, "--tokenizer", "bytes", "--output", self.output]
                done = subprocess.run([*command, f"--processes={processes}"], cwd=self.folder, capture_output=True, text=True,
                                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)))
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertIn("out/tokens: cannot be written: File too large; no token file was made", done.stderr)
                self.assertNotIn("Traceback", done.stderr)
                self.assertEqual(list(self.output.parent.iterdir()), [])


class StoppedTest(TokenizeCase):
    def setUp(self):
        super().setUp()
        for name in SLOW_INPUTS[:-1]:
            self.write_documents(name, ["text"])
        self.write("slow.jsonl.zst", "")
        program = self.write("programs/zstd", "#!/bin/sh\n: > begun\nuntil [ -e end ]; do sleep 0.1; echo; done; sleep 0.5; echo '{}'\n")
        program.chmod(0o755)

    def start(self, processes):
        """The script, once it has begun to write and waits for more to read."""
        (self.folder / "begun").unlink(missing_ok=True)
        command = [sys.executable, SCRIPT, *SLOW_INPUTS, "--tokenizer", "bytes", "--output", self.output]
        environment = os.environ | {"PATH": f"{self.folder}/programs:{os.environ['PATH']}"}
        process = subprocess.Popen([*command, f"--processes={processes}"], cwd=self.folder, env=environment, text=True,
                                   start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end_group, process)
        self.wait_for(lambda: list(self.output.parent.glob(".tokens.*.npy")) and (self.folder / "begun").exists())
        return process

    def end_group(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()

    def wait_for(self, condition):
        deadline_s = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline_s)
            time.sleep(0.02)

    def is_group_gone(self, process):
        """Zombies are gone: in a container nobody may collect them."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except OSError:  # gone just now
                continue
            if int(group) == process.pid and state not in "ZX":
                return False
        return True

    def test_a_signal_leaves_nothing_and_is_one_line(self):
        self.write("programs/zstd", "#!/bin/sh\n: > begun\nexec sleep 60\n")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for processes in (1, 2):
                with self.subTest(number=number, processes=processes):
                    process = self.start(processes)
                    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
                    process.send_signal(number)  # once more, while it cleans up
                    out, errors = process.communicate(timeout=30)
                    self.assertEqual(process.returncode, 128 + number, errors)
                    self.assertEqual((out, errors), ("", f"tokenize.py: stopped by {signal.Signals(number).name}\n"))
                    self.assertEqual(list(self.output.parent.iterdir()), [])
                    self.wait_for(lambda: self.is_group_gone(process))

    def test_a_killed_process_takes_its_workers_along_and_the_next_one_removes_its_files(self):
        for processes in (1, 2):
            with self.subTest(processes=processes):
                process = self.start(processes)
                process.kill()
                process.wait()
                self.wait_for(lambda: self.is_group_gone(process))
                left = sorted(path.suffix for path in self.output.parent.iterdir())
                self.assertEqual(left, [".gz", ".lock", ".npy"])
                self.write(f"out/.tokens-more.{process.pid}.npy", "of another prefix")
                done = self.tokenize("0.jsonl")
                self.assertIn("removed 2 temporary files", done.stderr)
                self.assertEqual(ids_of(self.output.with_suffix(".npy")), byte_ids("text"))
                names = sorted(path.name for path in self.output.parent.iterdir())
                self.assertEqual(names, [f".tokens-more.{process.pid}.npy", "tokens.csv.gz", "tokens.npy"])
                for name in names:
                    (self.output.parent / name).unlink()

    def test_a_second_writer_is_refused_and_the_first_goes_on(self):
        process = self.start(1)
        done = self.run_script("0.jsonl")
        self.assertEqual(done.returncode, 3)
        self.assertIn("another process writes this --output", done.stderr)
        self.assertIsNone(process.poll())
        self.assertEqual(len(list(self.output.parent.glob(".tokens.*.npy"))), 1)

    def test_a_killed_worker_is_told_and_leaves_nothing(self):
        process = self.start(2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"tokenize.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        self.write("end", "")
        out, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, out), (3, ""))
        self.assertEqual(errors, "tokenize.py: a worker process was killed, as happens when memory runs out; "
                                 "use fewer --processes\n")
        self.assertEqual(list(self.output.parent.iterdir()), [])

    def test_a_limit_of_open_files_is_told(self):
        self.write_documents("a.jsonl", ["text"])
        command = [sys.executable, SCRIPT, "a.jsonl", "--tokenizer", "bytes", "--output", self.output, "--processes", "9"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(done.stderr, "tokenize.py: cannot start 9 processes: Too many open files; use fewer --processes\n")
        self.assertEqual(list(self.output.parent.iterdir()), [])


class NameTest(TokenizeCase):
    def test_an_output_with_its_suffix(self):
        self.write_documents("a.jsonl", ["text"])
        self.output = self.folder / "out" / "tokens.npy"
        self.tokenize("a.jsonl")
        self.assertEqual(sorted(path.name for path in self.output.parent.iterdir()), ["tokens.csv.gz", "tokens.npy"])

    def test_names_that_no_list_of_files_can_hold(self):
        self.write_documents("a.jsonl", ["text"])
        for name in ("to\nkens", "tokens ", "tok\udcffens"):
            self.output = f"{self.folder}/out/{name}"
            done = self.run_script("a.jsonl")
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn("a list of token files could not hold this name", done.stderr)
        self.output = "#tokens"
        self.assertIn("could not hold this name", self.run_script("a.jsonl").stderr)
        for name in ("", ".npy"):
            self.output = f"{self.folder}/out/{name}"
            self.assertIn("names a folder", self.run_script("a.jsonl").stderr)
        self.assertFalse((self.folder / "out").exists())

    def test_names_too_long_are_refused_at_once(self):
        self.write_documents("a.jsonl", ["text"])
        self.output = self.folder / "out" / ("x" * 250)
        done = self.run_script("a.jsonl")
        self.assertEqual(done.returncode, 3)
        self.assertIn("bytes for the files' names", done.stderr)

    def test_absurd_process_counts_are_refused(self):
        self.write_documents("a.jsonl", ["text"])
        for count in ("0", "513"):
            done = self.run_script("a.jsonl", "--processes", count)
            self.assertEqual(done.returncode, 2, done.stderr)


if __name__ == "__main__":
    unittest.main()

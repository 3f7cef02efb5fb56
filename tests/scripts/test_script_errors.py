"""How the scripts that a user runs end: on signals, closed pipes and full disks with one line, never a traceback."""
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# A module that each script imports, replaced by one that takes long to load.
SLOW_MODULES = {
    "tokenize.py": "bz2",
    "plot_run.py": "matplotlib",
    "ngram_baseline.py": "numpy",
    "make_text_tokens.py": "gzip",
}
# For a minute, in short sleeps: a signal just before one begins is met after it.
WAITING = "[time.sleep(0.05) for _ in range(1200)]"


class ScriptErrors(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, command, environment=None):
        """A process that has made the file `begun`."""
        (self.folder / "begun").unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=self.folder, env=os.environ | (environment or {}), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        deadline_s = time.monotonic() + 30
        while not (self.folder / "begun").exists():
            self.assertLess(time.monotonic(), deadline_s)
            time.sleep(0.02)
        return process

    def script(self, body):
        """A command that runs `body` as the main function of a script called x.py."""
        code = "\n".join([f"import sys, time; from pathlib import Path; sys.path.append({str(SCRIPTS)!r})",
                          "import script_errors", "script_errors.stop_on_signals('x.py')", "def main():",
                          *(f"    {line}" for line in body), "script_errors.run_script(main, 'x.py:')"])
        return [sys.executable, "-c", code]

    def test_a_signal_while_modules_load_is_one_line(self):
        for script, module in SLOW_MODULES.items():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                with self.subTest(script=script, number=number):
                    (self.folder / f"{module}.py").write_text(f"import time; open('begun', 'w'); {WAITING}")
                    process = self.start([sys.executable, SCRIPTS / script], {"PYTHONPATH": str(self.folder)})
                    process.send_signal(number)
                    out, errors = process.communicate(timeout=30)
                    self.assertEqual((out, errors), ("", f"{script}: stopped by {signal.Signals(number).name}\n"))
                    self.assertEqual(process.returncode, 128 + number)
                    (self.folder / f"{module}.py").unlink()

    def test_a_second_signal_lets_the_first_one_clean_up(self):
        body = [f"try: Path('begun').touch(); {WAITING}", "finally: time.sleep(0.5); Path('cleaned').touch()"]
        process = self.start(self.script(body))
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, errors), (130, "x.py: stopped by SIGINT\n"))
        self.assertTrue((self.folder / "cleaned").exists())

    def test_a_signal_waits_for_a_block_that_may_not_be_left_half_way(self):
        body = ["with script_errors.signals_held():", "    Path('begun').touch(); time.sleep(1); Path('whole').touch()",
                "Path('after').touch()"]
        process = self.start(self.script(body))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        self.assertEqual((process.returncode, errors), (143, "x.py: stopped by SIGTERM\n"))
        self.assertEqual(((self.folder / "whole").exists(), (self.folder / "after").exists()), (True, False))

    def test_a_third_signal_ends_a_cleanup_that_hangs(self):
        body = [f"try: Path('begun').touch(); {WAITING}", f"finally: {WAITING}"]
        process = self.start(self.script(body))
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 143)

    def test_a_signal_that_nohup_ignores_stays_ignored(self):
        body = ["Path('begun').touch()", "time.sleep(0.5)", "return 7"]
        process = self.start(["nohup", *self.script(body)])
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 7)

    def test_an_output_that_cannot_be_written(self):
        command = self.script(["print('text' * 99999)", "return 0"])
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual((done.returncode, done.stderr), (1, "x.py: [Errno 28] No space left on device\n"))
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (141, ""))

    def test_errors_of_the_user_are_one_line(self):
        for body, message in (("open('absent')", "x.py: [Errno 2] No such file or directory: 'absent'\n"),
                              ("raise MemoryError", "x.py: out of memory\n")):
            done = subprocess.run(self.script([body]), capture_output=True, text=True, cwd=self.folder)
            self.assertEqual((done.returncode, done.stderr), (1, message))

    def test_scripts_find_the_standard_library_before_tokenize(self):
        for script in SLOW_MODULES:
            with self.subTest(script):
                link = self.folder / script
                link.symlink_to(SCRIPTS / script)
                code = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2]); import tokenize; "
                        "print(tokenize.__file__)")
                done = subprocess.run([sys.executable, "-c", code, SCRIPTS, link], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertFalse(done.stdout.startswith(str(SCRIPTS)), done.stdout)


if __name__ == "__main__":
    unittest.main()

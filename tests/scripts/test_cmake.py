"""The commit in core/version.h, and what CMake refuses to configure or to call tested."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CMAKE = shutil.which("cmake")
IDENTITY = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]


class Temporary(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_program(self, *command, cwd=None, environment=None):
        """Returns (exit code, what it said with single spaces)."""
        done = subprocess.run(list(map(str, command)), cwd=cwd, env=os.environ | (environment or {}),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, " ".join(done.stdout.split())


class Version(Temporary):
    """Runs cmake/version.cmake on a source folder of one file."""

    def setUp(self):
        super().setUp()
        self.source, self.header = self.folder / "source", self.folder / "generated/core/version.h"
        (self.source / "core").mkdir(parents=True)
        shutil.copy(REPOSITORY / "core/version.h.in", self.source / "core")

    def git(self, *arguments, cwd=None):
        code, text = self.run_program("git", *IDENTITY, *arguments, cwd=cwd or self.source)
        self.assertEqual(code, 0, text)
        return text

    def commit(self):
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
            self.git(*arguments)
        return self.git("rev-parse", "HEAD")[:12]

    def written_commit(self, environment=None):
        code, text = self.run_program(CMAKE, f"-DSOURCE={self.source}", f"-DOUTPUT={self.header}",
                                      "-DPROJECT_VERSION=1.2.3", "-P", REPOSITORY / "cmake/version.cmake",
                                      environment=environment)
        self.assertEqual((code, text), (0, ""))
        header = self.header.read_text()
        self.assertIn('kVersion = "1.2.3";', header)
        return header.split('kGitCommit = "')[1].split('"')[0]

    def test_it_is_the_commit_and_says_whether_it_was_edited(self):
        commit = self.commit()
        self.assertEqual(self.written_commit(), commit)
        self.git("tag", "-a", "v1", "-m", "a tag does not hide the commit")
        self.assertEqual(self.written_commit(), commit)
        with (self.source / "core/version.h.in").open("a") as file:
            file.write("// edited\n")
        self.assertEqual(self.written_commit(), f"{commit}-dirty")

    def test_a_header_that_stays_the_same_is_not_touched(self):
        self.commit()
        self.written_commit()
        os.utime(self.header, (1, 1))
        self.written_commit()
        self.assertEqual(self.header.stat().st_mtime, 1)

    def test_without_a_repository_or_git_it_is_unknown(self):
        self.assertEqual(self.written_commit(), "unknown")
        self.commit()
        self.assertEqual(self.written_commit({"PATH": str(self.folder)}), "unknown")

    def test_a_repository_around_the_sources_is_not_theirs(self):
        self.git("init", "-q", cwd=self.folder)
        self.git("add", ".", cwd=self.folder)
        self.git("commit", "-q", "-m", "first", cwd=self.folder)
        self.assertEqual(self.written_commit(), "unknown")

    def test_a_repository_that_git_does_not_read_is_unknown(self):
        (self.source / ".git").write_text("gitdir: nowhere\n")
        self.assertEqual(self.written_commit(), "unknown")


class Configure(Temporary):
    def test_cuda_without_its_compiler_is_no_build_for_cpus(self):
        code, text = self.run_program(CMAKE, "--preset", "cuda-release", "-B", self.folder,
                                      "-DCMAKE_CUDA_COMPILER=/nowhere/nvcc", cwd=REPOSITORY)
        self.assertNotEqual(code, 0, text)
        self.assertIn("/nowhere/nvcc", text)

    def cached(self, name):
        return re.search(rf"^{name}:\w+=(.*)$", (self.folder / "CMakeCache.txt").read_text(), re.MULTILINE)[1]

    def test_by_hand_the_build_is_optimized_and_warnings_are_no_errors(self):
        code, text = self.run_program(CMAKE, "-S", REPOSITORY, "-B", self.folder, "-G", "Ninja", "-DBUILD_TESTING=OFF")
        self.assertEqual(code, 0, text)
        self.assertIn("No CMAKE_BUILD_TYPE was given: Release", text)
        self.assertEqual(self.cached("CMAKE_BUILD_TYPE"), "Release")
        commands = (self.folder / "compile_commands.json").read_text()
        self.assertIn(" -O3 ", commands)
        self.assertNotIn("-Werror", commands)
        code, text = self.run_program(CMAKE, self.folder, "-DCMAKE_BUILD_TYPE=Debug", "-DOLMOE_WARNINGS_AS_ERRORS=ON")
        self.assertEqual(code, 0, text)
        self.assertEqual(self.cached("CMAKE_BUILD_TYPE"), "Debug")
        self.assertIn("-Werror", (self.folder / "compile_commands.json").read_text())

    def configure(self, *definitions):
        return self.run_program(CMAKE, "--preset", "cpu-release", "-B", self.folder, *definitions, cwd=REPOSITORY)

    def test_tests_that_are_off_do_not_pass_and_on_they_need_catch2(self):
        code, text = self.configure("-DBUILD_TESTING=OFF")
        self.assertEqual(code, 0, text)
        code, text = self.run_program("ctest", "--test-dir", self.folder)
        self.assertNotEqual(code, 0, text)
        self.assertIn("configure_with_BUILD_TESTING_ON", text)

        # Neither Catch2 2 nor 3 is found. In the same folder, for the second time is quick.
        code, text = self.configure("-DBUILD_TESTING=ON", "-DCATCH2_SINGLE_HEADER:BOOL=OFF",
                                    "-DCMAKE_DISABLE_FIND_PACKAGE_Catch2=ON")
        self.assertNotEqual(code, 0, text)
        self.assertIn("run scripts/install_packages.sh test", text)


if __name__ == "__main__":
    unittest.main()

"""What the shell scripts ask of other programs, which are replaced by ones that write down how they were called."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class ShellScripts(unittest.TestCase):
    """Each test has a copy of scripts/ in a folder with a LibTorch and all packages, which may install nothing."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        shutil.copytree(REPOSITORY / "scripts", self.folder / "scripts")
        for needed in ("programs", "libtorch/lib", ".deps/python/tokenizers"):
            (self.folder / needed).mkdir(parents=True)
        (self.folder / "libtorch/lib/libtorch_cpu.so").touch()
        self.calls = self.folder / "calls"
        self.replace("dpkg-query", "echo install ok installed")
        for program in ("cmake", "ctest", "apt-get", "sudo"):
            self.replace(program)

    def replace(self, program, answer=":"):
        path = self.folder / "programs" / program
        path.write_text(f'#!/bin/sh\necho "{program} $*" >> "{self.calls}"\n{answer}\n')
        path.chmod(0o755)

    def run_script(self, name, *arguments):
        environment = {"PATH": f"{self.folder}/programs:{os.environ['PATH']}", "LIBTORCH": f"{self.folder}/libtorch"}
        return subprocess.run([self.folder / "scripts" / name, *arguments], env=os.environ | environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def calls_of(self, program):
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(f"{program} ")]

    def test_tests_and_benchmarks_are_built_and_no_tests_are_an_error(self):
        done = self.run_script("test.sh", "-R", "kernels")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("-DBUILD_TESTING=ON -DOLMOE_BENCH=ON", self.calls_of("cmake")[0])
        called, = self.calls_of("ctest")
        self.assertIn(" --no-tests=error ", called)
        self.assertIn(" --parallel 2 ", called)
        self.assertTrue(called.endswith(" -R kernels"), called)
        self.assertEqual(self.calls_of("apt-get"), [])

    def test_warnings_are_errors_for_the_tests_and_not_for_users(self):
        self.run_script("test.sh")
        self.assertIn("-DOLMOE_WARNINGS_AS_ERRORS=ON", self.calls_of("cmake")[0])
        self.calls.unlink()
        self.run_script("quickstart.sh")
        self.assertIn("-DOLMOE_WARNINGS_AS_ERRORS=OFF", self.calls_of("cmake")[0])

    def test_each_compiler_that_is_named_is_built_with_and_one_that_fails_is_told(self):
        for compiler in ("g++-12", "clang++-15"):
            self.replace(compiler)
        done = self.run_script("check_compilers.sh", "g++-12", "clang++-15")
        self.assertEqual(done.returncode, 0, done.stderr)
        configured = [line for line in self.calls_of("cmake") if " -S " in line]
        for line, pair in zip(configured, ("gcc-12 -DCMAKE_CXX_COMPILER=g++-12", "clang-15 -DCMAKE_CXX_COMPILER=clang++-15"),
                              strict=True):
            self.assertIn(f"-DCMAKE_C_COMPILER={pair}", line)
            self.assertNotIn("BUILD_TYPE", line)

        self.replace("cmake", "case \"$*\" in *--build*build-compiler-g++-12*) exit 1;; esac")
        done = self.run_script("check_compilers.sh", "g++-12", "clang++-15")
        self.assertEqual(done.returncode, 1)
        self.assertIn("does not build: g++-12", done.stderr)
        self.assertIn("clang++-15 builds", done.stdout)
        done = self.run_script("check_compilers.sh", "g++-99")
        self.assertEqual((done.returncode, "g++-99 is not installed" in done.stderr), (1, True), done.stderr)

    def test_a_failing_ctest_fails(self):
        self.replace("ctest", "exit 8")
        self.assertEqual(self.run_script("test.sh").returncode, 8)

    def test_groups_of_packages(self):
        plain = self.run_script("install_packages.sh")
        self.assertEqual(plain.returncode, 0, plain.stderr)
        for group, package in {"test": "catch2", "plot": "python3-matplotlib", "study": "python3-scipy",
                               "bench": "libbenchmark-dev"}.items():
            asks = f"dpkg-query -W -f ${{Status}} {package}"
            self.assertNotIn(asks, self.calls_of("dpkg-query"))
            done = self.run_script("install_packages.sh", group)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(asks, self.calls_of("dpkg-query"))
        self.assertEqual(self.run_script("install_packages.sh", "benches").returncode, 1)


class Slurm(unittest.TestCase):
    def test_the_example_starts_the_ranks_that_its_config_shards_over(self):
        script = (REPOSITORY / "scripts" / "slurm.sbatch").read_text()
        nodes, ranks = (int(re.search(rf"^#SBATCH --{key}=(\d+)$", script, re.MULTILINE)[1])
                        for key in ("nodes", "ntasks-per-node"))
        self.assertIn("sbatch scripts/slurm.sbatch configs/olmoe-1b-7b.yaml", script)
        config = (REPOSITORY / "configs" / "olmoe-1b-7b.yaml").read_text()
        replicate, shard = (int(re.search(rf"^  {key}: (\d+)$", config, re.MULTILINE)[1])
                            for key in ("replicate", "shard"))
        self.assertEqual(nodes * ranks, replicate * shard)


if __name__ == "__main__":
    unittest.main()

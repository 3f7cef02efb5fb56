"""The check of a machine with a GPU: its environment, its parts, limits of time, and its report."""
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

from gpu_case import Temporary

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts/gpu"))
gpu_check, gpu_parts, gpu_report, gpu_watch = map(
    importlib.import_module, ("check", "parts", "report", "watch"))
Watch = gpu_watch.Watch


class Environment(Temporary):
    """env.sh in a folder of its own, with an nvidia-smi and a LibTorch that say what a test wants."""

    def setUp(self):
        super().setUp()
        shutil.copy(REPOSITORY / "scripts/gpu/env.sh", self.folder / "env.sh")
        self.add("programs/nvidia-smi", "#!/bin/sh\necho 580.65.06\n", 0o755)
        self.add("torch/lib/libtorch_cpu.so", "")
        self.add("torch/lib/libtorch_cuda.so", "")
        self.add("torch/version.py", "cuda: Optional[str] = '13.0'\n")
        self.version("2, 11, 0")

    def add(self, name, text, mode=0o644):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def version(self, numbers):
        names = ("MAJOR", "MINOR", "PATCH")
        lines = [f"#define TORCH_VERSION_{name} {n}\n" for name, n in zip(names, numbers.split(", "))]
        self.add("torch/include/torch/headeronly/version.h", "".join(lines))

    def env(self, *command):
        return self.run_in(self.folder, "./env.sh", *command, PATH=f"{self.folder}/programs:/usr/bin:/bin",
                           LIBTORCH=str(self.folder))

    def test_a_program_finds_the_libraries(self):
        code, text = self.env("printenv", "LD_LIBRARY_PATH")
        self.assertEqual(code, 0, text)
        self.assertTrue(text.startswith(f"{self.folder}/lib:{self.folder}/torch/lib"), text)
        self.assertEqual(self.env("sh", "-c", "exit 7")[0], 7)
        self.assertEqual(self.env("printenv", "CUBLAS_WORKSPACE_CONFIG", "NCCL_LAUNCH_ORDER_IMPLICIT"),
                         (0, ":4096:8\n1\n"))

    def test_what_keeps_programs_from_being_loaded_is_said_once(self):
        self.add("bin/olmoe-train", "#!/bin/sh\nexit 0\n", 0o755)
        self.assertEqual(self.env("--check"), (0, ""))
        words = "libcudart.so.13: cannot open shared object file"
        self.add("bin/olmoe-train", f"#!/bin/sh\necho '{words}' >&2\nexit 127\n", 0o755)
        self.assertEqual(self.env("--check"), (3, f"missing: what olmoe-train needs to be loaded: {words}\n"))

    def test_torch_is_the_one_of_this_cuda(self):
        self.add("torch/version.py", "debug = False\ncuda: Optional[str] = '12.8'\n")
        self.assertEqual(self.env("true"), (3, f"missing: torch for CUDA 13: {self.folder}/torch is for CUDA 12.8\n"))
        self.assertEqual(self.env("--without-gpu", "true")[0], 0)
        (self.folder / "torch/version.py").unlink()  # LibTorch without Python
        self.assertEqual(self.env("true")[0], 0)
        (self.folder / "torch/lib/libtorch_cuda.so").unlink()
        self.assertEqual(self.env("true"), (3, f"missing: torch for CUDA 13: {self.folder}/torch is for CPUs alone\n"))

    def test_a_driver_that_is_known_is_not_asked_for(self):
        self.add("programs/nvidia-smi", f"#!/bin/sh\ntouch {self.folder}/asked\necho 580.65.06\n", 0o755)
        path = f"{self.folder}/programs:/usr/bin:/bin"
        for driver, rc in (("580.65.06", 0), ("570.10", 3)):
            code, _ = self.run_in(self.folder, "./env.sh", "true", PATH=path, LIBTORCH=str(self.folder), OLMOE_GPU_DRIVER=driver)
            self.assertEqual((code, (self.folder / "asked").exists()), (rc, False))

    def test_what_is_missing_is_named(self):
        code, text = self.env()
        self.assertEqual(code, 3)
        self.assertIn("missing: a program to run: ", text)
        self.version("2, 10, 0")
        self.assertEqual(self.env("true"), (3, f"missing: torch 2.11.0: {self.folder}/torch is 2.10.0\n"))
        (self.folder / "torch/lib/libtorch_cpu.so").unlink()
        self.assertIn("missing: LibTorch: LIBTORCH names", self.env("true")[1])
        self.add("programs/nvidia-smi", "#!/bin/sh\necho 570.10\n", 0o755)
        self.assertEqual(self.env("true"), (3, "missing: driver 580 or newer: this one is 570.10\n"))
        self.add("programs/nvidia-smi", "#!/bin/sh\nexit 6\n", 0o755)
        self.assertEqual(self.env("true"), (3, "missing: a GPU: nvidia-smi tells of none\n"))


class WholeCheck(Temporary):
    """A check of parts that the test makes: whatever happens to one, the report of the others is there."""

    def machine(self):
        return SimpleNamespace(rehearse=False, out=self.folder, watch=Watch(self.folder / "gpu.csv"))

    def group(self, *parts):
        def made(_):
            yield from (gpu_parts.Part(name, 5, command) for name, command in parts)
        return made

    def report(self):
        return json.loads((self.folder / "report.json").read_text())

    def outcomes(self):
        return {part["name"]: part["status"] for part in self.report()["parts"]}

    def run_all(self, *groups, only=()):
        return gpu_check.Check(self.machine(), gpu_check.Budget(60), groups, only).run_all()

    def test_a_part_that_cannot_be_made_or_read_fails_alone(self):
        def unmade(machine):
            yield gpu_parts.Part("first", 5, ["true"])
            yield gpu_parts.Part("never", int("[N/A]"), ["true"])

        def unread(machine):
            yield gpu_parts.Part("unread", 5, ["true"], figures=lambda log, run: log[1])
            yield gpu_parts.Part("absent", 5, ["true"], figures=lambda log, run: (run / "metrics.jsonl").read_text())
        self.assertFalse(self.run_all(unmade, unread, self.group(("last", ["true"]))))
        self.assertEqual(self.outcomes(), {"first": "passed", "unmade": "failed", "unread": "failed",
                                           "absent": "failed", "last": "passed"})
        text = (self.folder / "report.md").read_text()
        self.assertIn("\n| unmade | failed: ValueError: invalid literal", text)
        self.assertIn("left no figures: TypeError", text)

    def test_figures_that_fit_no_table_are_kept(self):
        part = gpu_parts.Part("olmoe_1_layers", 5, ["true"], figures=lambda log, run: {"steps": 12})  # of how many layers?
        self.assertFalse(self.run_all(lambda _: [part]))
        report = self.report()
        self.assertEqual((report["go"], report["verdict"]), (False, "NO GO"))
        self.assertEqual(report["parts"][0]["figures"], {"steps": 12})
        self.assertEqual(report["steps"]["cannot"], "KeyError: 'layers'")
        self.assertIn("could not be made: KeyError", (self.folder / "report.md").read_text())

    def test_a_report_is_there_before_the_first_part_and_after_each(self):
        see = ["cp", self.folder / "report.json", self.folder / "seen.json"]
        self.assertTrue(self.run_all(self.group(("first", ["true"]), ("second", see))))
        seen = json.loads((self.folder / "seen.json").read_text())
        self.assertEqual([part["name"] for part in seen["parts"]], ["first"])
        self.assertEqual((seen["go"], seen["verdict"]), (False, "NO GO, not the whole check: it ended in the part second"))
        self.assertEqual((self.report()["go"], self.report()["verdict"]), (True, "go"))

    def test_some_parts_alone_are_no_go(self):
        parts = self.group(("olmoe_8", ["true"]), ("olmoe_4", ["true"]), ("other", ["false"]))
        self.assertFalse(self.run_all(parts, only=["olmoe_*"]))
        self.assertEqual(self.outcomes(), {"olmoe_8": "passed", "olmoe_4": "passed"})
        self.assertEqual(self.report()["verdict"], "NO GO, not the whole check: of olmoe_* alone")
        self.run_all(parts, only=["other", "nothing"])
        self.assertEqual(self.outcomes(), {"other": "failed", "nothing": "failed"})

    def test_a_folder_of_something_else_is_not_replaced(self):
        gpu_check.new_folder(self.folder)  # it is empty
        (self.folder / "report.json").write_text("{}")
        gpu_check.new_folder(self.folder)
        self.assertEqual(list(self.folder.iterdir()), [])
        (self.folder / "letter").write_text("")
        with self.assertRaisesRegex(SystemExit, "is there and is no report"):
            gpu_check.new_folder(self.folder)

    def test_a_signal_ends_the_part_and_leaves_the_report(self):
        script = ("import sys, types; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
                  "import check, parts, watch\n"
                  "out = Path(sys.argv[2]); two = [parts.Part('first', 5, ['true']),\n"
                  "    parts.Part('second', 50, ['sh', '-c', 'echo $$; exec sleep 50'])]\n"
                  "groups = (lambda machine: two, lambda machine: two)\n"
                  "machine = types.SimpleNamespace(rehearse=False, out=out, watch=watch.Watch(out / 'gpu.csv'))\n"
                  "check.heed_signals()\n"
                  "check.Check(machine, check.Budget(90), groups).run_all()\n")
        check = subprocess.Popen([sys.executable, "-c", script, REPOSITORY / "scripts/gpu", self.folder],
                                 stderr=subprocess.DEVNULL)
        log = self.folder / "second.log"
        due = time.monotonic() + 30
        while not (log.exists() and log.read_text().strip()) and time.monotonic() < due:
            time.sleep(0.02)
        check.terminate()
        check.wait(30)
        self.assertEqual((self.outcomes(), self.report()["verdict"]),
                         ({"first": "passed"}, "NO GO, not the whole check: stopped by SIGTERM in the part second"))
        self.assertFalse(Path("/proc", log.read_text().strip()).exists())


class Running(Temporary):
    def test_failures_and_limits(self):
        for command, status in ((["true"], "passed"), (["false"], "failed"), (["sleep", "5"], "timed out")):
            result = gpu_check.run(gpu_parts.Part("part", 1, command), self.folder, 1, Watch(self.folder / "gpu.csv"))
            self.assertEqual(result["status"], status)
            self.assertEqual(gpu_report.is_go([result], rehearse=True), status == "passed")
        no_metrics = gpu_check.run(gpu_parts.Part("part", 1, ["true"], figures=gpu_report.steps_of), self.folder, 1, Watch(self.folder / "gpu.csv"))
        self.assertEqual(no_metrics["status"], "failed")

    def test_what_could_not_run_is_no_go_but_in_a_rehearsal(self):
        result = gpu_check.run(gpu_parts.Part("part", 1, ["true"], missing="there is no GPU"), self.folder, 1, Watch(self.folder / "gpu.csv"))
        self.assertFalse(gpu_report.write(self.folder, [result], rehearse=False))
        self.assertIn("NO GO", (self.folder / "report.md").read_text())
        self.assertTrue(gpu_report.write(self.folder, [result], rehearse=True))


class Report(Temporary):
    def metrics(self, name, losses):
        (self.folder / name).mkdir()
        lines = [json.dumps({"step": i + 1, "tokens": 100, "loss": loss, "tokens_per_s": 50.0})
                 for i, loss in enumerate(losses)]
        (self.folder / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        return self.folder / name

    def test_losses_are_compared_step_by_step(self):
        run, near, far = (self.metrics(name, losses) for name, losses in
                          {"run": [3.0, 2.0], "near": [3.0, 2.001], "far": [3.3, 2.0]}.items())
        self.assertTrue(gpu_report.compare(run, near, 2, 1e-3))
        self.assertFalse(gpu_report.compare(run, far, 2, 1e-3))
        self.assertFalse(gpu_report.compare(run, near, 3, 1e-3))
        self.assertFalse(gpu_report.compare(run, self.metrics("nan", [3.0, float("nan")]), 2, 1e-3))

    def test_waits_of_the_host_are_reported_where_they_were_counted(self):
        run, log = self.metrics("run", [3.0] * 8), self.folder / "run.log"
        (run / "config.yaml").write_text("model:\n  num_layers: 2\n")
        log.write_text("")
        self.assertNotIn("most_host_syncs_of_a_step", gpu_report.steps_of(log, run))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        text = "\n".join(json.dumps(line | {"host_syncs": syncs}) for line, syncs in zip(lines, [9, 9, 0, 0, 1, 0, 0, 0]))
        (run / "metrics.jsonl").write_text(text + "\n")
        self.assertEqual(gpu_report.steps_of(log, run)["most_host_syncs_of_a_step"], 1)


class TimeBudget(unittest.TestCase):
    def test_what_a_part_leaves_goes_to_those_after_it(self):
        clock = SimpleNamespace(now=100.0)
        budget = gpu_check.Budget(60, lambda: clock.now)
        part = gpu_parts.Part("part", 10, [])
        self.assertEqual(budget.limit_s(part), 10)
        clock.now += 4  # eight of the twelve seconds are left
        self.assertEqual(budget.limit_s(part), 18)
        clock.now += 20  # it hung
        self.assertEqual(budget.limit_s(part), 10)
        clock.now += 30  # what no limit foresaw
        self.assertLess(budget.limit_s(part), 1)

    def test_a_part_without_time_is_said_to_have_none(self):
        result = gpu_check.run(gpu_parts.Part("part", 1, ["true"]), Path("unused"), 0, None)
        self.assertEqual((result["status"], result["reason"]), ("not run", "the parts before it left it no time"))


class OutOfMemory(Temporary):
    def run_model(self, layers, says):
        part = gpu_parts.Part(f"olmoe_{layers}_layers", 5, ["sh", "-c", says], may_not_fit=True)
        return gpu_check.run(part, self.folder, 5, Watch(self.folder / "gpu.csv"))

    def test_it_is_a_finding_where_fewer_layers_fit(self):
        full = self.run_model(8, "echo CUDA out of memory; exit 1")
        self.assertEqual(full["status"], "out of memory")
        self.assertFalse(gpu_report.is_go([full], rehearse=False))
        self.assertTrue(gpu_report.is_go([full, self.run_model(4, "true")], rehearse=False))
        self.assertEqual(self.run_model(8, "echo something else; exit 1")["status"], "failed")


if __name__ == "__main__":
    unittest.main()

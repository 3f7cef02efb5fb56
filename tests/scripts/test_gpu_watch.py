"""What the check on a GPU keeps of nvidia-smi: clocks, power and memory, from one process of it."""
import importlib
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts/gpu"))
gpu_check, gpu_parts, gpu_watch = map(importlib.import_module, ("check", "parts", "watch"))
Watch = gpu_watch.Watch


class Watching(unittest.TestCase):
    """A watch of an nvidia-smi that says what the test wants, with the times of now."""
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    FORMAT = "{now}, NVIDIA H100 80GB HBM3, 580.65.06, 81559, 81000, {used}, {clock}, 1980, 2619, {power}, 700.00, 40, {busy}"

    def smi(self, *samples):
        lines = [self.FORMAT.format(now="'$(date +%Y/%m/%d\\ %H:%M:%S.%3N)'", **sample) for sample in samples]
        text = "".join(f"echo '{line}'\nsleep 0.3\n" for line in lines)
        path = self.folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\necho asked >> {self.folder}/asked\n{text}exec sleep 60\n")
        path.chmod(0o755)
        return mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}")

    def test_clocks_and_power_are_of_when_the_gpu_was_busy_and_it_is_asked_once(self):
        idle = {"used": 500, "clock": 345, "power": "80.00", "busy": 0}
        with self.smi(idle, {"used": 9000, "clock": 1755, "power": "690.00", "busy": 100},
                      {"used": 3000, "clock": 1605, "power": "700.00", "busy": 98}):
            watch = Watch(self.folder / "gpu.csv")
            self.assertTrue(watch.start())
            self.addCleanup(watch.stop)
            result = gpu_check.run(gpu_parts.Part("part", 5, ["sleep", "1.2"]), self.folder, 5, watch)
            nothing = watch.between(0, 1)
        self.assertEqual(watch.facts()["driver_version"], "580.65.06")
        self.assertEqual(nothing, {})
        self.assertEqual(result["gpu"], {"median_sm_mhz": 1680.0, "least_sm_mhz": 1605.0, "median_power_w": 695.0,
                                         "most_power_w": 700.0, "most_celsius": 40.0, "most_used_mib": 9000.0})
        self.assertEqual((self.folder / "asked").read_text(), "asked\n")

    def test_without_an_answer_there_are_no_facts(self):
        with mock.patch.dict(os.environ, PATH=str(self.folder)):
            self.assertFalse(Watch(self.folder / "gpu.csv").start())
        (self.folder / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
        (self.folder / "nvidia-smi").chmod(0o755)
        with mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}"):
            watch = Watch(self.folder / "gpu.csv")
            self.assertFalse(watch.start())
        self.assertEqual((watch.facts(), watch.between(0, 2e9)), ({}, {}))


if __name__ == "__main__":
    unittest.main()

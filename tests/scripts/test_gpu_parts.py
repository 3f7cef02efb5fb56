"""Which parts the check on a GPU has: their limits, commands, and what keeps them from running."""
import importlib
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))
gpu_check, gpu_parts, gpu_report = map(importlib.import_module, ("gpu_check", "gpu_parts", "gpu_report"))


def all_parts(machine):
    return [part for group in gpu_parts.GROUPS for part in group(machine)]


class Parts(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="olmoe-parts-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def machine(self, **changes):
        answers = {"rehearse": False, "out": self.folder, "device": "cuda", "env": ["./env.sh"], "ask": lambda _: "NVIDIA H100",
                   "listed": lambda *_: "3 matching test cases\ncuda/rms_norm\n", "most_layers": lambda: 8}
        return SimpleNamespace(**answers | {"fitted": []} | changes)

    def test_all_limits_together_are_under_nine_minutes(self):
        parts = all_parts(self.machine())
        self.assertLess(sum(part.limit_s + 2 for part in parts), gpu_check.MOST_SECONDS)
        self.assertEqual(len({part.name for part in parts}), len(parts))

    def test_runs_on_a_gpu_count_the_waits_of_the_host_and_one_is_a_graph(self):
        for rehearse, device in ((False, "cuda"), (True, "cpu")):
            parts = {part.name: part for part in all_parts(self.machine(rehearse=rehearse, device=device))}
            counted = {name for name, part in parts.items() if "log.host_syncs=true" in part.command}
            self.assertEqual(counted, set() if rehearse else
                             {"tiny_device", "olmoe_8_layers", "olmoe_4_layers", "olmoe_graph", "profile"})
            self.assertIn("train.cuda_graph=true", parts["olmoe_graph"].command)
            self.assertEqual(bool(parts["olmoe_graph"].missing), rehearse)

    def test_a_bundle_without_cuda_cases_does_not_look_green(self):
        machine = self.machine(listed=lambda *_: "0 matching test cases\n")
        missing = {part.name: part.missing for part in all_parts(machine)}
        for name in (*gpu_parts.TESTS, "sanitizer_memcheck", "kernels_bench"):
            self.assertTrue(missing[name], name)

    def test_kernels_are_listed_by_the_profiler_that_is_there(self):
        for there, first in (({"nsys", "ncu"}, "nsys"), ({"ncu"}, "ncu"), (set(), "")):
            with mock.patch.object(shutil, "which", lambda tool: tool if tool in there else None):
                part = next(gpu_parts.profile_parts(self.machine()))
            self.assertEqual(bool(part.missing), not there)
            self.assertFalse(part.needed)
            if there:
                program = part.command.index("olmoe-train")
                self.assertIn("./env.sh", part.command[:program])
                self.assertIn(first, part.command[:program])
                self.assertIn(f"train.steps={gpu_report.PROFILED_STEPS}", part.command)

    def test_half_as_many_layers_are_tried(self):
        machine = SimpleNamespace(rehearse=True, out=self.folder, device="cpu", env=[], most_layers=lambda: 8, fitted=[])
        (self.folder / "olmoe_8_layers.log").write_text("CUDA out of memory")
        parts = list(gpu_parts.step_parts(machine))
        self.assertEqual([part.name for part in parts],
                         ["olmoe_8_layers", "olmoe_4_layers", "olmoe_2_layers", "transformers_train"])
        self.assertEqual(parts[-1].command[-3:], ["--layers", 4, 2])

    def test_it_does_not_go_below_one_layer(self):
        machine = SimpleNamespace(rehearse=True, out=self.folder, device="cpu", env=[], most_layers=lambda: 2, fitted=[])
        for layers in (2, 1):
            (self.folder / f"olmoe_{layers}_layers.log").write_text("CUDA out of memory")
        self.assertEqual([part.name for part in gpu_parts.step_parts(machine)],
                         ["olmoe_2_layers", "olmoe_1_layers", "transformers_train"])


if __name__ == "__main__":
    unittest.main()

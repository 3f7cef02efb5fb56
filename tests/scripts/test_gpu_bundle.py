"""The bundle for a machine with a GPU: packed from the programs of this build, and rehearsed on the CPU."""
import importlib
import json
import os
import re
import sys
import unittest
from pathlib import Path

from gpu_case import Temporary

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("OLMOE_TRAIN", REPOSITORY / "build" / "olmoe-train")).resolve().parent
sys.path.insert(0, str(REPOSITORY / "scripts/gpu"))
gpu_parts = importlib.import_module("parts")
# A Python with torch and transformers, for development. Where there is none, the report has to say so.
PEER_PYTHON = REPOSITORY / ".deps/venv-dev/bin"


def libtorch():
    """The LibTorch that the programs of this build were linked with."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    named = re.search(r"^LIBTORCH:\w+=(.+)$", cache, re.MULTILINE)
    return named[1] if named else os.environ.get("LIBTORCH", str(REPOSITORY / ".deps" / "libtorch-2.11.0"))


class Bundle(Temporary):
    def setUp(self):
        super().setUp()
        self.bundle = self.folder / "bundle"
        code, text = self.run_in(REPOSITORY, "scripts/gpu/bundle.sh", "-b", BUILD, "-o", self.bundle)
        self.assertEqual(code, 0, text)
        self.environment = {"LIBTORCH": libtorch(), "OMP_NUM_THREADS": "1"}

    def check(self, *arguments, **environment):
        return self.run_in(self.bundle, "scripts/gpu/check.sh", *arguments, **self.environment | environment)

    def libraries(self, program):
        """{name: path} of what the program is linked with inside the bundle."""
        code, text = self.run_in(self.bundle, "./env.sh", "--without-gpu", "ldd", self.bundle / "bin" / program,
                                 **self.environment)
        self.assertEqual(code, 0, text)
        return dict(re.findall(r"^\s*(\S+) => (.+?)(?: \(0x|$)", text, re.MULTILINE))

    def test_it_brings_its_libraries_and_is_rehearsed(self):
        # One bundle for all of it: packing takes seconds.
        linked = self.libraries("olmoe-train")
        self.assertNotIn("not found", linked.values())
        for name, path in linked.items():
            ours = name.startswith(("libmpi.", "libopen-", "libyaml", "libspdlog", "libfmt", "libxxhash", "libhwloc"))
            self.assertEqual(path.startswith(str(self.bundle)), ours or (self.bundle / "lib" / name).exists(), path)
        self.assertTrue(any(name.startswith("libmpi.") for name in linked))
        self.assertEqual([path.name for path in (self.bundle / "lib").glob("libtorch*")], [])
        self.assertFalse((self.bundle / "bin" / "golden_tests").exists())
        self.assertLess(sum(path.stat().st_size for path in self.bundle.rglob("*")), 60e6)

        code, text = self.check("--rehearse", PATH=f"{PEER_PYTHON}:{os.environ['PATH']}")
        self.assertEqual(code, 0, text)
        report = json.loads((self.bundle / "report/report.json").read_text())
        self.assertEqual((report["rehearsal"], report["go"]), (True, True))
        parts = {part["name"]: part for part in report["parts"]}
        for name in ("machine", "doctor", "tiny_device", "tiny_cpu", "device_against_cpu", "olmoe_2_layers",
                     "olmoe_1_layers", "olmoe_1_layers_dense", "prediction", "kernel_prediction"):
            self.assertEqual(parts[name]["status"], "passed", parts[name])
        for name in (*gpu_parts.TESTS, "sanitizer_memcheck", "sanitizer_racecheck"):
            self.assertEqual((parts[name]["status"], parts[name]["reason"]), ("not run", "there is no GPU"))
        for name in ("olmoe_1_layers_graph", "olmoe_2_layers_fused", "layer_fused", "counters", "ablations"):
            self.assertEqual(parts[name]["status"], "not run", parts[name])
        self.assertEqual(parts["tiny_device"]["figures"]["steps"], 20)
        self.assertLess(parts["tiny_device"]["figures"]["last_loss"], parts["tiny_device"]["figures"]["first_loss"])
        predicted = parts["kernel_prediction"]["figures"]["predicted"]
        kinds = {"unfused", "fused", "flash_any_order", "cudnn", "cudnn_any_order", "fused_flash_any_order", "fused_cudnn",
                 "fused_cudnn_any_order"}
        self.assertEqual(set(predicted["steps"]), {f"{layers} {kind}" for layers in (1, 2) for kind in kinds})
        self.assertEqual(len(predicted["attention"]), 4)
        self.assertEqual(report["predictions"], {"rows": []})  # these are figures of a CPU
        self.check_comparison(report, parts)
        text = (self.bundle / "report/report.md").read_text()
        self.assertIn("# Rehearsal without a GPU\n", text)
        self.assertIn("## Experts of one layer, bf16\n", text)
        self.assertIn("\n| ours, fp32 state | 2 | ", text)
        self.assertIn("| kernels_tests | NOT RUN: there is no GPU |", text)

        code, text = self.check("--rehearse", "--call", "2", "--only", "tiny_*")
        self.assertEqual(code, 1, text)  # some parts alone are no go
        self.assertEqual(len(json.loads((self.bundle / "report_of_some/report.json").read_text())["parts"]), 2)

        (self.folder / "nvidia-smi").write_text("#!/bin/sh\nexit 6\n")  # as where there is no GPU
        (self.folder / "nvidia-smi").chmod(0o755)
        code, text = self.check(PATH=f"{self.folder}:{os.environ['PATH']}")
        self.assertEqual((code, text), (3, "missing: a GPU: nvidia-smi tells of none\n"))

    def check_comparison(self, report, parts):
        """Ours in the tables, and transformers wherever its Python has it."""
        present = any(PEER_PYTHON.parent.glob("lib/python3*/site-packages/transformers"))
        layer, steps = report["layer"]["rows"], report["steps"]["runs"]
        ours = [row for row in layer if row["who"].startswith("ours")]
        built = (BUILD / "kernels_bench").exists()  # with -DOLMOE_BENCH=ON
        for name in ("layer_unfused", "profile_unfused"):
            self.assertEqual(parts[name]["status"], "passed" if built else "not run", parts[name])
        if built:
            self.assertGreater(parts["profile_unfused"]["figures"]["launches"], 100)
        self.assertEqual([row["skew"] for row in ours], [0, 1] if built else [])
        for row in [row for row in layer if "cannot" not in row]:
            self.assertGreater(min(row["forward_tflop_per_s"], row["backward_tflop_per_s"], row["busiest"] - 1), 0, row)
        self.assertEqual([row["layers"] for row in steps if row["who"] == "ours"], [2, 1])
        for row in [row for row in steps if "cannot" not in row]:
            self.assertGreater(row["median_tokens_per_s"], 0)
            self.assertGreater(row["tflop_per_s_full"], row["tflop_per_s_causal"])
        for what in ("layer", "train"):
            part = parts[f"transformers_{what}"]
            self.assertEqual(part["status"], "passed" if present else "not run", part)
        if present:
            self.assertEqual({row["who"] for row in layer} - {row["who"] for row in ours},
                             {"transformers, eager", "transformers, grouped_mm"})
            self.assertEqual([(row["state"], row["layers"]) for row in steps if row["who"] == "transformers"],
                             [("bf16", 2), ("bf16", 1), ("fp32", 2), ("fp32", 1)])


if __name__ == "__main__":
    unittest.main()

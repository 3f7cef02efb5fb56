"""Which parts the check on a GPU has: their limits, commands, and what keeps them from running."""
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts/gpu"))
gpu_check, gpu_parts, gpu_report = map(importlib.import_module, ("check", "parts", "report"))


def parts_of(machine, call):
    return [part for group in gpu_parts.CALLS[call] for part in group(machine)]


def all_parts(machine):
    groups = gpu_check.chosen_groups([*gpu_parts.CALLS], only=())
    return [part for group in groups for part in group(machine)]


class Parts(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="olmoe-parts-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def machine(self, **changes):
        answers = {"rehearse": False, "out": self.folder, "device": "cuda", "env": ["./env.sh"], "fact": lambda _: "NVIDIA H100",
                   "watch": SimpleNamespace(facts=lambda: {"name": "NVIDIA H100"}), "listed": lambda *_: "3 matching test cases\ncuda/rms_norm\n", "most_layers": lambda: 8}
        return SimpleNamespace(**answers | {"fitted": []} | changes)

    def test_all_limits_of_a_call_together_are_under_330_seconds(self):
        for call in gpu_parts.CALLS:
            parts = parts_of(self.machine(), call)
            limits = sum(part.limit_s + gpu_check.GRACE_S for part in parts)
            self.assertLessEqual(gpu_parts.LOAD_S + limits, gpu_check.CALL_S, f"call {call}")
        parts = all_parts(self.machine())
        self.assertEqual(len({part.name for part in parts}), len(parts))

    def test_the_first_call_has_the_tests_first_then_layers_then_steps_with_fused_kernels_apart(self):
        parts = parts_of(self.machine(), 1)
        self.assertEqual([part.name for part in parts],
                         ["machine", "kernels_tests", "fused_tests", "trainer_tests", "parallel_tests", "layer_unfused",
                          "layer_fused", "transformers_layer", "prediction", "kernel_prediction", "olmoe_8_layers", "olmoe_4_layers",
                          "olmoe_8_layers_fused", "olmoe_4_layers_fused"])
        by_name = {part.name: part for part in parts}
        self.assertEqual(by_name["kernels_tests"].command[-2:], ["[cuda]~*fused*~*cudnn*", "kernels_tests"])
        self.assertEqual(by_name["fused_tests"].command[-3:], ["[cuda]*fused*", "kernels_tests", "trainer_tests"])
        for name, pattern in (("layer_unfused", "cuda_.*fused:0|cuda_cublas"), ("layer_fused", "cuda_.*fused:1")):
            self.assertIn(f"--benchmark_filter={pattern}", by_name[name].command)
        self.assertIn("train.expert_kernels=fused", by_name["olmoe_4_layers_fused"].command)

    def test_the_third_call_is_attention_with_cudnn_apart_and_ablations_and_none_of_it_is_needed(self):
        parts = {part.name: part for part in parts_of(self.machine(), 3)}
        self.assertEqual([*parts], ["machine", "prediction", "kernel_prediction", "cudnn_tests", "attention", "olmoe_4_layers_flash",
                                    "olmoe_4_layers_flash_any_order", "olmoe_4_layers_cudnn", "olmoe_4_layers_cudnn_graph",
                                    "olmoe_4_layers_cudnn_any_order", "ablations"])
        self.assertEqual(parts["cudnn_tests"].command[-3:], ["[cuda]*cudnn*", "kernels_tests", "trainer_tests"])
        self.assertIn("--benchmark_filter=cuda_attention", parts["attention"].command)
        self.assertIn("--benchmark_filter=ablation_", parts["ablations"].command)
        for name, part in parts.items():
            self.assertEqual("train.attention_kernel=cudnn" in part.command, "layers_cudnn" in name, name)
            self.assertEqual("train.deterministic_attention=false" in part.command, "any_order" in name, name)
            self.assertEqual(part.needed, name == "machine")
        rehearsal = self.machine(rehearse=True, device="cpu", listed=lambda *_: "attention/width:0/real_time\nablation_up/as_is/real_time\n")
        for part in parts_of(rehearsal, 3):
            gpu_alone = "cudnn" in part.name or "any_order" in part.name or part.name == "ablations"
            self.assertEqual(bool(part.missing), gpu_alone, part.name)

    def test_what_may_be_cut_short_is_not_needed(self):
        """Libraries and other people's programs decide how long these take."""
        needed = {part.name for part in all_parts(self.machine()) if part.needed}
        self.assertEqual(needed, {"machine", "kernels_tests", "fused_tests", "trainer_tests", "parallel_tests",
                                  "olmoe_8_layers", "olmoe_4_layers", "olmoe_4_layers_again", "olmoe_4_layers_graph",
                                  "graph_against_no_graph", "tiny_device", "tiny_cpu", "device_against_cpu", "doctor"})

    def test_one_program_of_a_part_that_fails_hides_no_other(self):
        program = self.folder / "run"
        program.write_text(f"#!/bin/sh\necho $1 $2 >> {self.folder}/ran; [ $1 != kernels_tests ]\n")
        program.chmod(0o755)
        machine = self.machine(env=[str(program)])
        part = next(part for part in gpu_parts.test_parts(machine) if part.name == "fused_tests")
        self.assertEqual(subprocess.run(part.command).returncode, 1)
        self.assertEqual((self.folder / "ran").read_text(), "kernels_tests [cuda]*fused*\ntrainer_tests [cuda]*fused*\n")

    def test_runs_on_a_gpu_count_the_waits_of_the_host_and_some_are_graphs(self):
        for rehearse, device in ((False, "cuda"), (True, "cpu")):
            parts = {part.name: part for part in all_parts(self.machine(rehearse=rehearse, device=device))}
            counted = {name for name, part in parts.items() if "log.host_syncs=true" in part.command}
            steps = {name for name in parts if name.startswith(("olmoe_", "profile_"))} | {"tiny_device"}
            self.assertEqual(counted, set() if rehearse else steps)
            for name in ("olmoe_4_layers_graph", "olmoe_4_layers_fused_graph"):
                self.assertIn("train.cuda_graph=true", parts[name].command)
                self.assertEqual(bool(parts[name].missing), rehearse)

    def test_a_bundle_without_cuda_cases_does_not_look_green(self):
        machine = self.machine(listed=lambda *_: "0 matching test cases\n")
        missing = {part.name: part.missing for part in all_parts(machine)}
        for name in (*gpu_parts.TESTS, "cudnn_tests", "sanitizer_memcheck", "layer_unfused", "layer_fused", "attention", "ablations"):
            self.assertTrue(missing[name], name)

    def test_kernels_are_timed_by_our_own_program(self):
        (self.folder / "bin").mkdir()
        (self.folder / "bin/profile_steps").touch()
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        unfused, fused = gpu_parts.profile_parts(self.machine())
        self.assertEqual((unfused.missing, fused.missing), ("", ""))
        self.assertNotIn("olmoe-train", unfused.command)
        for word in (f"train.steps={gpu_report.PROFILED_STEPS}", self.folder / "profile_unfused.csv"):
            self.assertIn(word, unfused.command)
        self.assertIn("train.expert_kernels=fused", fused.command)
        (self.folder / "bin/profile_steps").unlink()
        self.assertEqual(next(gpu_parts.profile_parts(self.machine())).missing, "the bundle has no profile_steps")

    def counters(self, ncu, **changes):
        """The part that counts, and its metrics, where `ncu`, a shell script, is on the path."""
        program = self.folder / "ncu"
        program.write_text(f"#!/bin/sh\n{ncu}\n")
        program.chmod(0o755)
        with mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}"):
            part = next(gpu_parts.counter_parts(self.machine(env=[], **changes)))
        return part, part.command[part.command.index("--metrics") + 1].split(",")

    def test_metrics_that_ncu_does_not_know_are_left_out_and_named(self):
        gone = "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio"
        names = [name + suffix for name in gpu_parts.NCU_METRICS if name != gone for suffix in ("", ".pct")]
        listing = self.folder / "listing"
        listing.write_text("Device NVIDIA B200 (GB100)\n\n" + "".join(f"{name:<90} Counter  # of it\n" for name in names))
        # It lists metrics, and refuses to count if it does not know one.
        script = (f'echo "$@" >> {self.folder}/asked; '
                  f'case "$*" in *--query-metrics-mode\\ all*) cat {listing} ;; *{gone}*) exit 1 ;; esac')
        part, metrics = self.counters(script)
        self.assertEqual((part.missing, metrics), ("", [name for name in gpu_parts.NCU_METRICS if name != gone]))
        self.assertEqual((self.folder / "asked").read_text(), "--query-metrics --query-metrics-mode all --devices 0\n")
        self.assertEqual(subprocess.run(part.command, env={"PATH": f"{self.folder}:/usr/bin:/bin"}).returncode, 0)
        (self.folder / "counters.csv").write_text('"Kernel Name","dram__bytes_read.sum"\n"multiply","5"\n')
        figures = part.figures(None, self.folder / "counters")
        self.assertEqual(figures, {"rows": [{"kernel": "multiply", "dram__bytes_read.sum": 5.0}], "not known to this ncu": [gone]})
        text = gpu_report.part_markdown({"name": "counters", "command": "ncu", "figures": figures})
        self.assertIn(f"* not known to this ncu: {gone}", text)
        listing.write_text("\n".join([*names, gone]))
        self.assertNotIn("not known to this ncu", self.counters(script)[0].figures(None, self.folder / "counters"))

    def test_nothing_is_counted_where_ncu_lists_nothing(self):
        refusal = "ERR_NVGPUCTRPERM - The user does not have permission"
        for says, why in ((f"echo Device 0; echo '==ERROR== {refusal}'; echo See the guide", refusal), ("echo killed; exit 9", "killed"),
                          ("exit 1", "nothing")):
            part, _ = self.counters(says)
            self.assertEqual((part.missing, part.needed), (f"ncu lists none of the metrics; it said: {why}", False))
        self.assertEqual(self.counters("exit 1", rehearse=True)[0].missing, "there is no GPU")
        with mock.patch.object(shutil, "which", lambda tool: None):
            self.assertEqual(self.counters("exit 1")[0].missing, "there is no ncu on the path")

    def test_metrics_have_names_like_those_of_ncu(self):
        self.assertEqual(len(set(gpu_parts.NCU_METRICS)), 20)
        for name in gpu_parts.NCU_METRICS:
            self.assertRegex(name, r"^[a-z0-9]+__[a-z0-9_]+\.(sum(\.per_second)?|ratio|avg\.pct_of_peak_sustained_elapsed)$")

    def test_half_as_many_layers_are_tried(self):
        machine = SimpleNamespace(rehearse=True, out=self.folder, device="cpu", env=[], most_layers=lambda: 8, fitted=[])
        (self.folder / "olmoe_8_layers.log").write_text("CUDA out of memory")
        parts = list(gpu_parts.step_parts(machine))
        self.assertEqual([part.name for part in parts],
                         ["olmoe_8_layers", "olmoe_4_layers", "olmoe_2_layers"])
        self.assertEqual(machine.fitted, [4, 2])

    def test_it_does_not_go_below_one_layer(self):
        machine = SimpleNamespace(rehearse=True, out=self.folder, device="cpu", env=[], most_layers=lambda: 2, fitted=[])
        for layers in (2, 1):
            (self.folder / f"olmoe_{layers}_layers.log").write_text("CUDA out of memory")
        self.assertEqual([part.name for part in gpu_parts.step_parts(machine)],
                         ["olmoe_2_layers", "olmoe_1_layers"])
        self.assertEqual([part.missing for part in gpu_parts.fused_step_parts(self.machine())], ["no number of layers fitted"])


if __name__ == "__main__":
    unittest.main()

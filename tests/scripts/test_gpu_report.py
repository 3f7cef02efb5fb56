"""What the report of the GPU check makes of figures: tables beside transformers, 16 layers out of fewer, kernels."""
import importlib
import json
import re
import sys
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts/gpu"))
gpu_parts, gpu_predictions, gpu_report, gpu_tables, profiled_kernels = map(
    importlib.import_module, ("parts", "predictions", "report", "tables", "profiled_kernels"))


class Tables(unittest.TestCase):
    def part(self, name, figures, status="passed"):
        return {"name": name, "status": status, "figures": figures}

    def run_of(self, layers, step_ms, **figures):
        return {"layers": layers, "median_step_ms": step_ms, "tokens_per_step": 16384,
                "median_tokens_per_s": 16384e3 / step_ms} | figures

    def test_the_full_model_is_computed_from_two(self):
        few = self.run_of(4, 120.0, flops_per_token=[2e9, 3e9], peak_memory_bytes=40e9)
        many = self.run_of(8, 200.0, flops_per_token=[4e9, 6e9], peak_memory_bytes=70e9)
        theirs = [row | {"state": "bf16"} for row in (self.run_of(8, 400.0), self.run_of(4, 200.0))]
        theirs.append({"state": "fp32", "layers": 8, "cannot": "out of memory"})
        results = [self.part("olmoe_8_layers", many), self.part("olmoe_4_layers", few),
                   self.part("prediction", {"peak_tflop_per_s": 1000.0}),
                   self.part("transformers_train", {"rows": theirs})]
        table = gpu_tables.step_table(results)
        ours, peer = table["computed_for_16_layers"]
        self.assertEqual((ours["layer_ms"], ours["median_step_ms"]), (20.0, 360.0))
        self.assertEqual((ours["layer_bytes"], ours["peak_memory_bytes"]), (7.5e9, 130e9))
        self.assertAlmostEqual(ours["median_tokens_per_s"], 16384 / 0.36)
        self.assertAlmostEqual(ours["mfu_causal"], 16384 / 0.36 * 8e9 / 1e15)
        self.assertAlmostEqual(ours["mfu_full"], 16384 / 0.36 * 12e9 / 1e15)
        self.assertEqual((peer["who"], peer["median_step_ms"]), ("transformers", 800.0))
        text = "\n".join(gpu_tables.step_markdown(table))
        self.assertIn("| ours, fp32 state | 16, computed | 45511 | 360.0 | 36.4 % | 54.6 % | 130.0 | - | 20.00 | - | - |", text)
        self.assertIn("| transformers, fp32 state | 8 | out of memory | - |", text)

    def test_without_two_runs_nothing_is_computed(self):
        results = [self.part("olmoe_8_layers", self.run_of(8, 200.0)), self.part("olmoe_4_layers", {}, "failed")]
        table = gpu_tables.step_table(results)
        self.assertEqual(table["computed_for_16_layers"], [])
        self.assertEqual([row.get("cannot") for row in table["runs"]], [None, "failed"])
        graph = gpu_tables.step_table(results + [self.part("olmoe_4_layers_graph", self.run_of(4, 100.0))])
        self.assertEqual(([row["who"] for row in graph["runs"]], graph["computed_for_16_layers"]),
                         (["ours", "ours", "ours, graph"], []))
        slower = [self.part(f"olmoe_{layers}_layers", self.run_of(layers, step_ms))
                  for layers, step_ms in ((8, 200.0), (4, 210.0))]
        self.assertEqual(gpu_tables.step_table(slower)["computed_for_16_layers"], [])

    def test_clocks_and_power_stand_beside_what_they_were_seen_at(self):
        gpu = {"median_sm_mhz": 1755.0, "median_power_w": 690.2, "most_used_mib": 1000.0}
        results = [self.part("olmoe_4_layers_fused", self.run_of(4, 100.0, state="fp32")) | {"gpu": gpu}]
        table = gpu_tables.step_table(results)
        self.assertEqual(table["runs"][0]["used_bytes"], 1000 * 2**20)
        self.assertIn("| ours, fused, fp32 state | 4 | 163840 | 100.0 | - | - | - | 1.0 | - | 1755 | 690 |",
                      "\n".join(gpu_tables.step_markdown(table)))
        layer = {"cuda_moe_layer_forward/fused:1/T:32768/skew:-1/real_time": {"real_time": 4.0, "FLOP/s": 4e14}}
        table = gpu_tables.layer_table([self.part("layer_fused", layer) | {"gpu": gpu}])
        self.assertIn("| ours, fused T 32768 | forced | - | 400 | - | - | - | 4.00 | - | 1755 | 690 |",
                      "\n".join(gpu_tables.layer_markdown(table)))

    def test_the_dense_twin_has_flops_of_its_own(self):
        results = [self.part("olmoe_4_layers", self.run_of(4, 100.0, flops_per_token=[2e9, 3e9])),
                   self.part("olmoe_4_layers_dense", self.run_of(4, 50.0, flops_per_token=[1e9, 2e9])),
                   self.part("prediction", {"peak_tflop_per_s": 1000.0})]
        ours, dense = gpu_tables.step_table(results)["runs"]
        self.assertAlmostEqual(ours["mfu_causal"], 163840 * 2e9 / 1e15)
        self.assertAlmostEqual(dense["mfu_causal"], 327680 * 1e9 / 1e15)

    def test_layers_of_all_stand_beside_the_product(self):
        ours = {f"cuda_moe_layer_{way}{variant}/skew:{skew}/real_time":
                {"real_time": ms, "FLOP/s": rate, "busiest": 1.1 + skew}
                for way, ms, rate in (("forward", 4.0, 4e14), ("backward", 9.0, 3e14))
                for skew in (0, 1) for variant in ("", "_fused")}
        theirs = [{"product": 8192, "tflop_per_s": 700.0},
                  {"experts": "eager", "skew": 0, "busiest": 1.1, "forward_ms": 50.0, "backward_ms": 100.0,
                   "forward_tflop_per_s": 30.0, "backward_tflop_per_s": 35.0},
                  {"experts": "grouped_mm", "skew": 0, "busiest": 1.1, "forward_ms": 5.0, "backward_ms": 12.0,
                   "forward_tflop_per_s": 300.0, "backward_tflop_per_s": 250.0},
                  {"experts": "sonicmoe", "skew": 0, "busiest": 1.1, "cannot": "not installed"}]
        table = gpu_tables.layer_table([
            self.part("layer_unfused", ours | {"cuda_cublas/real_time": {"real_time": 1.4, "FLOP/s": 8e14}}),
            self.part("transformers_layer", {"rows": theirs}, "timed out")])
        self.assertEqual(table["cublas_tflop_per_s"], 800)
        rows = {(row["who"], row["skew"]): row for row in table["rows"]}
        self.assertEqual((rows["ours, unfused", 1]["forward_of_cublas"], rows["ours, fused", 0]["backward_of_cublas"]),
                         (0.5, 0.375))
        self.assertEqual(len(rows), 7)
        text = "\n".join(gpu_tables.layer_markdown(table))
        self.assertIn("| ours, unfused | natural | 1.10 | 400 | 300 | 50.0 % | 37.5 % | 4.00 | 9.00 | - | - |", text)
        self.assertIn("| transformers, sonicmoe | natural | cannot run: not installed |", text)
        skipped = {"cuda_moe_layer_forward/fused:1/skew:0/real_time": {"real_time": 0.0, "error_message": "no kernels"},
                   "cuda_moe_layer_forward/fused:0/skew:0/real_time": {"real_time": 4.0, "FLOP/s": 4e14}}
        rows = gpu_tables.layer_table([self.part("layer_fused", skipped)])["rows"]
        self.assertEqual([(row["who"], row.get("cannot")) for row in rows],
                         [("ours, fused", "no kernels"), ("ours, unfused", None)])
        self.assertEqual(gpu_tables.fastest_experts(theirs, "eager"), "grouped_mm")
        self.assertEqual(gpu_tables.fastest_experts([], "eager"), "eager")

    def test_ablations_stand_beside_the_kernel_as_it_is(self):
        times = {"ablation_up/as_is": 2.0, "ablation_up/identity_tokens": 1.9, "ablation_up/empty_epilogue": 1.5,
                 "ablation_up_gradient/as_is": 2.5, "ablation_up_gradient/stored": 2.0}
        figures = {f"{name}/real_time": {"real_time": ms, "FLOP/s": 5e14} for name, ms in times.items()}
        figures["ablation_down_backward/as_is/real_time"] = {"real_time": 0.0, "error_message": "no kernels"}
        layer = {"forward": {"kernels": [{"kernel": "up", "epilogue_share": 0.1}, {"kernel": "combine"}]}}
        predicted = {"layers": {"fused": layer}, "attention": {}, "steps": {}}
        results = [self.part("ablations", figures) | {"gpu": {"median_sm_mhz": 1755.0, "median_power_w": 690.2}},
                   self.part("kernel_prediction", {"predicted": predicted})]
        with tempfile.TemporaryDirectory() as folder:
            gpu_report.write(Path(folder), [result | {"needed": False, "command": "-"} for result in results], rehearse=False)
            text = Path(folder, "report.md").read_text()
        for line in ("| kernel | as is | identity tokens | empty epilogue | stored | empty epilogue, predicted | SM MHz | W |",
                     "| up | 2.000 | 1.900 (95.0 %) | 1.500 (75.0 %) | - | 90.0 % | 1755 | 690 |",
                     "| up gradient | 2.500 | - | - | 2.000 (80.0 %) | - | 1755 | 690 |",
                     "| down backward | cannot run: no kernels | - | - | - | - | - | - |"):
            self.assertIn(line, text.splitlines())
        self.assertEqual(gpu_tables.ablation_markdown(gpu_tables.ablation_table([])), [])

    def test_every_ablation_that_is_timed_has_its_column(self):
        source = (REPOSITORY / "bench/experts_ablation.cu").read_text()
        timed = re.findall(r"^BENCHMARK_CAPTURE\(ablation_(\w+), (\w+), Form::(\w+)\)->Apply\(in_ms\);", source, re.MULTILINE)
        self.assertEqual(len(timed), source.count("BENCHMARK"))
        self.assertEqual([name for _, name, _ in timed], [form for *_, form in timed])
        of_product, of_gradient = [*gpu_tables.FORMS][:3], [*gpu_tables.FORMS]
        forms = {}
        for kernel, form, _ in timed:
            forms.setdefault(kernel, []).append(form)
        self.assertEqual(forms, {"up": of_product, "down_backward": of_product, "down_gradient": of_gradient,
                                 "up_gradient": of_gradient})


class Predictions(unittest.TestCase):
    """What was measured beside what olmoe-plan predicted."""

    def layer(self, form, state="built"):
        def kernel(name, ms):
            return {"kernel": name, "seconds": ms * 1e-3, "slow_s": ms * 1.2e-3, "fast_s": ms * 0.8e-3}
        rate = {"expected": 500.0, "slow": 450.0, "fast": 550.0}
        return {"form": form, "state": state, "forward": {"tflop_per_s": rate, "kernels": [kernel("up", 2.0)]},
                "backward": {"tflop_per_s": rate, "kernels": [kernel("down backward", 1.0), kernel("down gradient", 1.0),
                                                              kernel("up gradient", 2.0)]}}

    def answer(self, layers):
        def step(experts, attention, seconds, state="built"):
            return {"state": state, "feed_forward": experts, "attention": attention, "step_s": seconds,
                    "slow_s": seconds * 1.2, "fast_s": seconds * 0.9}
        steps = [step("unfused", "flash", 0.1), step("fused", "flash", 0.08), step("fused", "flash", 0.01, "not built"),
                 step("unfused", "cudnn in any order", 0.07), step("fused", "cudnn", 0.06)]
        times = {"seconds": 1e-3, "slow_s": 1.2e-3, "fast_s": 0.8e-3}
        return {"model_layers": layers, "steps": steps,
                "attention": [{"form": form, "forward": times, "backward": times} for form in gpu_predictions.ATTENTION],
                "large_product": {"tflop_per_s": {"expected": 700.0, "slow": 630.0, "fast": 770.0}},
                "layers": [self.layer("unfused"), self.layer("+ latest"), self.layer("+ proposal", "not built")]}

    def predicted(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "kernel_prediction.log")
            log.write_text("\n".join(json.dumps([self.answer(layers)], indent=1) for layers in (6, 3)) + "\n")
            return gpu_predictions.of_kernels(log, None)

    def part(self, name, figures):
        return {"name": name, "figures": figures}

    def test_figures_are_inside_or_outside_the_range(self):
        def bench(name, fused, ms, rate=1.0):
            return {f"{name}/fused:{fused}/T:16384/skew:0/real_time": {"real_time": ms, "FLOP/s": rate * 1e12}}
        fused = bench("cuda_moe_layer_forward", 1, 3.0, 560) | bench("cuda_moe_layer_backward", 1, 6.0, 500) | \
            bench("cuda_experts_up", 1, 2.3) | bench("cuda_experts_down_backward", 1, 2.5)
        profile = {"kernels": [["multiply<WeightGrad<true>>", 1, 2.1, 0.2], ["multiply<UpProjection>", 2, 9.0, 0.2]]}
        results = [self.part("kernel_prediction", self.predicted()), self.part("layer_fused", fused),
                   self.part("layer_unfused", bench("cuda_moe_layer_forward", 0, 4.0, 440) |
                             {"cuda_cublas/real_time": {"real_time": 1.6, "FLOP/s": 690e12}}),
                   self.part("profile_fused", profile), self.part("olmoe_6_layers", {"median_step_ms": 95.0}),
                   self.part("olmoe_3_layers_fused", {"median_step_ms": 60.0}),
                   self.part("olmoe_3_layers_graph", {"median_step_ms": 60.0})]
        table = gpu_predictions.table(results)
        self.assertEqual([(row["what"], row["inside"]) for row in table["rows"]],
                         [("one large product", True), ("layer, unfused, forward", False), ("layer, fused, forward", False), ("layer, fused, backward", True),
                          ("up", True), ("down backward and down gradient", False), ("up gradient, profiled", True),
                          ("step, 6 layers, unfused", True), ("step, 3 layers, fused", False)])
        text = "\n".join(gpu_tables.prediction_markdown(table))
        self.assertIn("| layer, fused, forward | 560 TFLOP/s | 500 | 450 to 550 | **no** |", text)
        self.assertIn("| up | 2.3 ms | 2 | 1.6 to 2.4 | yes |", text)
        self.assertIn("refutes a line of docs/roofline.md", text)

    def test_attention_is_compared_by_kernel_and_by_order(self):
        def bench(name, ms):
            return {f"cuda_attention_{name}/real_time": {"real_time": ms, "FLOP/s": 1e12}}
        measured = bench("forward/cudnn:0", 0.9) | bench("backward/cudnn:0/deterministic:0", 1.3) | \
            bench("backward/cudnn:1/deterministic:1", 1.0) | {"cuda_attention_forward/cudnn:1/real_time": {"cannot": "no cuDNN"}}
        runs = {"olmoe_3_layers_flash": 99.0, "olmoe_3_layers_cudnn_any_order": 90.0, "olmoe_3_layers_fused_cudnn": 61.0,
                "olmoe_3_layers_cudnn_graph": 60.0}
        results = [self.part("kernel_prediction", self.predicted()), self.part("attention", measured),
                   *(self.part(name, {"median_step_ms": ms}) for name, ms in runs.items())]
        self.assertEqual([(row["what"], row["inside"]) for row in gpu_predictions.table(results)["rows"]],
                         [("attention, flash, forward", True), ("attention, flash in any order, backward", False),
                          ("attention, cudnn, backward", True), ("step, 3 layers, unfused", True),
                          ("step, 3 layers, cudnn_any_order", False), ("step, 3 layers, fused_cudnn", True)])

    def test_nothing_is_compared_without_a_prediction_or_in_a_rehearsal(self):
        measured = [self.part("olmoe_6_layers", {"median_step_ms": 95.0})]
        self.assertEqual(gpu_predictions.table(measured), {"rows": []})
        self.assertEqual(gpu_tables.prediction_markdown({"rows": []}), [])
        both = [self.part("kernel_prediction", self.predicted()), *measured]
        self.assertEqual(len(gpu_predictions.table(both)["rows"]), 1)
        self.assertEqual(gpu_report.all_tables(both, rehearse=True)["predictions"], {"rows": []})

    def test_a_program_that_predicts_nothing_leaves_no_figures(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "kernel_prediction.log")
            log.write_text("[]\n")
            with self.assertRaises(ValueError):
                gpu_predictions.of_kernels(log, None)


class Kernels(unittest.TestCase):
    STEP = ["start<float>(int *)", "gemm", "void (anonymous namespace)::swiglu<float, Pair<int>>(X<int>, long)"]
    NAMES = ["void init(int)", "gemm", *STEP, *STEP, *STEP, "last"]

    def test_kernels_of_one_step_are_told_apart(self):
        rows = [f'{1000 * (i + 1)},"{name}"' for i, name in enumerate(self.NAMES)]
        text = "\n".join(["Duration (ns),Name", *rows])
        found = profiled_kernels.summary(text, 3)
        self.assertEqual((found["of"], found["launches"]), ("one step", 3))
        self.assertEqual([row[:2] for row in found["kernels"]],
                         [["swiglu<float, Pair<int>>", 1], ["gemm", 1], ["start<float>", 1]])
        self.assertAlmostEqual(found["gpu_ms"], (6000 + 7000 + 8000) * 1e-6)
        self.assertEqual(profiled_kernels.summary(text, 5)["of"], "the whole run of 5 steps")

    def test_counters_of_ncu(self):
        head = '"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum"'
        text = "\n".join(["==PROF== Connected", head, '"","","","ns","byte"',
                          '"0","7","void multiply<Up>(int)","2,000","3,000,000"'])
        self.assertEqual(profiled_kernels.counters(text),
                         [{"kernel": "multiply<Up>", "gpu__time_duration.sum": 2000.0, "dram__bytes_read.sum": 3e6}])
        with self.assertRaisesRegex(ValueError, "ncu counted nothing"):
            profiled_kernels.counters("==ERROR== ERR_NVGPUCTRPERM")

    def test_no_kernel_is_an_error(self):
        with self.assertRaises(ValueError):
            profiled_kernels.summary("Duration (ns),Name\n", 3)


class Logs(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def test_a_file_that_ends_early_keeps_its_whole_entries(self):
        entry = '    {\n      "name": "%s",\n      "real_time": 2.0,\n      "FLOP/s": 4e14\n    }'
        text = '{\n  "context": {\n  },\n  "benchmarks": [\n' + entry % "a" + ",\n" + entry % "b"
        for end in ("\n  ]\n}\n", ",\n    {\n      \"name\": \"c", ""):
            (self.folder / "layer_fused.json").write_text(text + end)
            self.assertEqual(list(gpu_report.benchmarks_of(None, self.folder / "layer_fused")), ["a", "b"])
        (self.folder / "layer_fused.json").write_text('{\n  "context": {\n  },\n')
        with self.assertRaises(ValueError):
            gpu_report.benchmarks_of(None, self.folder / "layer_fused")

    def test_counts_of_the_tests_are_figures(self):
        log = self.folder / "kernels_tests.log"
        log.write_text("GPU: AdamW and the norm\n  FAILED:\ntest cases: 5 | 4 passed | 1 failed\nassertions: 90 | 89 passed | 1 failed\n"
                       "All tests passed (7 assertions in 2 test cases)\n")
        found = gpu_report.tests_of(log, None)
        self.assertEqual((len(found["totals"]), found["failed"]), (3, ["GPU: AdamW and the norm"]))


class KnownGpus(unittest.TestCase):
    def test_only_those_of_the_data_sheets(self):
        names = {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA B200": "b200",
                 "NVIDIA H200": "h200", "NVIDIA H100 PCIe": None, "NVIDIA H200 NVL": None, "NVIDIA GB200": None,
                 "NVIDIA A100-PCIE-40GB": None}
        for name, known in names.items():
            found = re.search(gpu_parts.KNOWN_GPUS, name.lower())
            self.assertEqual(found and found[1], known, name)


if __name__ == "__main__":
    unittest.main()

"""The parts of scripts/gpu_check.py: what runs on the machine with the GPU, and for how long at most."""
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import gpu_report
import gpu_tables

LOAD_S = 30   # to load the first program, before the first part: LibTorch's libraries come from a disk
TESTS = {"kernels_tests": 60, "parallel_tests": 20, "trainer_tests": 30}
KNOWN_GPUS = r"\b(a100|b200|h100|h200)\b(?!.*(pcie|nvl))"  # of --dry-run --gpu, which are the SXM ones
GB_PER_LAYER, GB_BESIDE = 9, 12  # trained state and activations of a block of OLMoE-1B-7B; of all that is not a block
NO_FILES = ["checkpoint.every_steps=0", "checkpoint.save_last=false", "evaluation.paths=[]", "log.every_steps=1"]
REAL_TOKENS = ["data.paths=[data/sources.npy]", "train.steps=20"]
GENERATED_TOKENS = ["data.synthetic=true", 'data.paths_file=""', 'data.root=""']
# A rehearsal trains the same config on a CPU, a thousand times smaller.
SMALL = ["model.vocab_size=512", "model.d_model=64", "model.num_heads=4", "model.num_kv_heads=4", "model.num_experts=8",
         "model.top_k=2", "model.expert_width=32", "data.sequence_length=64", "train.compute_dtype=float32"]


@dataclass
class Part:
    name: str
    limit_s: int
    command: list
    missing: str = ""  # why it cannot run here; empty: it can
    figures: object = field(default=gpu_report.last_lines)  # what the report says of its log
    needed: bool = True        # for a "go"
    may_not_fit: bool = False  # out of memory is a finding, not a failure
    watch_memory: bool = False


class Machine:
    """What runs here, and how the bundle's programs are started."""

    def __init__(self, rehearse, out):
        self.rehearse, self.out = rehearse, out
        self.fitted = []  # numbers of layers of OLMoE-1B-7B that training steps had room for
        self.device = "cpu" if rehearse else "cuda"
        self.env = ["./env.sh", "--without-gpu"] if rehearse else ["./env.sh"]
        self.lists = {}

    def ask(self, field_name):
        """What nvidia-smi says of the first GPU."""
        command = ["nvidia-smi", f"--query-gpu={field_name}", "--format=csv,noheader,nounits", "--id=0"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()

    def listed(self, program, *arguments):
        """What a program of the bundle lists, "" where there is none or it takes too long."""
        command = ("timeout", "20", *self.env, program, *arguments)
        if Path("bin", program).exists() and command not in self.lists:
            self.lists[command] = subprocess.run(command, capture_output=True, text=True).stdout
        return self.lists.get(command, "")

    def most_layers(self):
        if self.rehearse:
            return 2
        free_gb = int(self.ask("memory.free")) * 1.048576e-3
        return max(2, min(16, int((free_gb - GB_BESIDE) / GB_PER_LAYER)))


def machine_parts(machine):
    """nvidia-smi's and the system's facts, and the program's version; then the doctor's."""
    gpu = ("nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit "
           "--format=csv; nvidia-smi -L; ")
    # What a small image has: no lscpu, no free. Some CPUs have no name.
    system = "echo CPUs: $(nproc); grep -m1 'model name' /proc/cpuinfo || true; grep '^Mem[TA]' /proc/meminfo; "
    script = ("" if machine.rehearse else gpu) + system + " ".join(machine.env) + " olmoe-train --version"
    yield Part("machine", LOAD_S + 8, ["bash", "-euo", "pipefail", "-c", script])
    yield Part("doctor", 20, [*machine.env, "olmoe-doctor", "configs/tiny-cpu.yaml", f"train.device={machine.device}",
                              f"run.folder={machine.out}/doctor"])


def cuda_cases(machine, program):
    """Why the cases of a test program with the tag [cuda] cannot run; "" where they can."""
    if machine.rehearse:
        return "there is no GPU"
    found = re.search(r"^(\d+) matching test case", machine.listed(program, "--list-tests", "[cuda]"), re.MULTILINE)
    return "" if found and int(found[1]) else f"the bundle has no case of {program} with the tag [cuda]"


def test_parts(machine):
    for program, limit_s in TESTS.items():
        yield Part(program, limit_s, [*machine.env, program, "[cuda]"], cuda_cases(machine, program))


def sanitizer_parts(machine):
    missing = cuda_cases(machine, "kernels_tests")
    if not missing and not shutil.which("compute-sanitizer"):
        missing = "there is no compute-sanitizer on the path"
    # A call that a library makes to try whether it can is no error. Attention's kernels are ATen's.
    for tool, limit_s, *options in (("memcheck", 48, "--report-api-errors", "no"), ("racecheck", 20)):
        checker = ["compute-sanitizer", "--tool", tool, *options, "--error-exitcode", "9"]
        yield Part(f"sanitizer_{tool}", limit_s,
                   [*machine.env, *checker, "kernels_tests", "[cuda]~[large]~*attention*"], missing,
                   needed=tool == "memcheck")  # racecheck is slow: one that is cut short says nothing against a kernel


def train(machine, name, limit_s, config, *overrides):
    if f"train.device={machine.device}" in overrides and not machine.rehearse:
        overrides += ("log.host_syncs=true",)
    return Part(name, limit_s, [*machine.env, "olmoe-train", f"configs/{config}.yaml", *overrides, *NO_FILES,
                                f"run.folder={machine.out}/{name}"], figures=gpu_report.steps_of)


def tiny_parts(machine):
    """The tiny model on the device and on a CPU; in a rehearsal in float64 and in fp32."""
    other = ["train.compute_dtype=float64"] if machine.rehearse else []
    yield train(machine, "tiny_device", 12, "tiny-cpu", *REAL_TOKENS, f"train.device={machine.device}", *other)
    yield train(machine, "tiny_cpu", 12, "tiny-cpu", *REAL_TOKENS, "train.device=cpu", "run.threads=1")
    # fp32 on both: sums in another order change a loss by 1e-6 in 20 steps, a choice of expert that flips by 1e-4.
    runs = [machine.out / "tiny_device", machine.out / "tiny_cpu"]
    yield Part("device_against_cpu", 3, [sys.executable, "scripts/gpu_report.py", "compare", *runs, "--steps", "20",
                                         "--tolerance", "1e-3"])


def benchmark_parts(machine):
    pattern = "moe_layer.*width:0/bf16:1" if machine.rehearse else "cuda"
    listed = machine.listed("kernels_bench", "--benchmark_list_tests", f"--benchmark_filter={pattern}")
    missing = "" if re.search(pattern, listed) else f"the bundle has no benchmark of kernels_bench named {pattern}"
    # Seconds, without the s: Google Benchmark 1.7 knows no unit, and later ones take what has none.
    least_s = "0.01" if machine.rehearse else "0.2"
    yield Part("kernels_bench", 28, [*machine.env, "kernels_bench", f"--benchmark_filter={pattern}",
                                     f"--benchmark_out={machine.out}/kernels_bench.json",
                                     f"--benchmark_min_time={least_s}"], missing, gpu_report.benchmarks_of)


def whole_model(machine, name, limit_s, layers, steps, *overrides):
    """OLMoE-1B-7B with so many layers, on generated tokens, one micro-batch a step."""
    return train(machine, name, limit_s, "olmoe-1b-7b", f"train.device={machine.device}", f"model.num_layers={layers}",
                 "parallel.shard=1", "parallel.zero_stage=2", f"train.steps={steps}", "train.global_batch_size=4",
                 *GENERATED_TOKENS, *(SMALL if machine.rehearse else []), *overrides)


def peer_part(machine, what, limit_s, shape, *arguments):
    """transformers, in the python3 that runs this."""
    absent = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    missing = f"{sys.executable} has no {' and no '.join(absent)}" if absent else ""
    name = f"transformers_{what}"
    command = [sys.executable, "bench/transformers_speed.py", what, "--device", machine.device, "--shape", shape,
               "--json", machine.out / f"{name}.json", *arguments]
    return Part(name, limit_s, command, missing, gpu_report.measured_in)


def peer_layer_parts(machine):
    # On a CPU the others are slow or not there.
    shape, *only = ("tiny", "--experts", "eager", "grouped_mm") if machine.rehearse else ("published",)
    yield peer_part(machine, "layer", 26, shape, *only)


def fastest_experts(machine):
    """The implementation that transformers was fastest with on one layer."""
    found = machine.out / "transformers_layer.json"
    rows = json.loads(found.read_text())["rows"] if found.exists() else []
    return gpu_tables.fastest_experts(rows, default="grouped_mm")


def step_parts(machine):
    """Training steps with as many layers as fit and with half of them, whose difference is what a layer costs; then the
    same of transformers."""
    layers, fitted = machine.most_layers(), machine.fitted
    while layers and len(fitted) < 2:
        part = whole_model(machine, f"olmoe_{layers}_layers", 40, layers, 12)
        part.may_not_fit = True
        part.watch_memory = not machine.rehearse
        yield part
        if not gpu_report.ran_out_of_memory(machine.out / f"{part.name}.log"):
            fitted.append(layers)
        layers //= 2
    yield peer_part(machine, "train", 42, "rehearsal" if machine.rehearse else "published",
                    "--experts", fastest_experts(machine), "--layers", *(fitted or [1]))


def graph_parts(machine):
    """The fewer of the layers that fitted as a CUDA graph, whose losses are those of the run without one."""
    layers, missing = min(machine.fitted or [1]), "there is no GPU" if machine.rehearse else ""
    if not machine.rehearse and not machine.fitted:
        missing = "no number of layers fitted"
    yield replace(whole_model(machine, "olmoe_graph", 24, layers, 12, "train.cuda_graph=true"), missing=missing)
    runs = [machine.out / "olmoe_graph", machine.out / f"olmoe_{layers}_layers"]
    yield Part("graph_against_no_graph", 3, [sys.executable, "scripts/gpu_report.py", "compare", *runs, "--steps", "12",
                                             "--tolerance", "0"], missing)


def prediction_parts(machine):
    name = "NVIDIA H100" if machine.rehearse else machine.ask("name")
    found = re.search(KNOWN_GPUS, name.lower())
    gpu = found[1] if found else ""
    yield Part("prediction", 5, [*machine.env, "olmoe-train", "configs/olmoe-1b-7b.yaml", "--dry-run", "--gpu", gpu,
                                 "--ranks", "256"],  # on one its state would not fit
               "" if gpu else f"the dry run does not know {name}", gpu_report.predictions_of, needed=False)


def profile_parts(machine):
    """Kernels of a training step with one layer, by nsys or else by ncu, which runs them one by one. Rented machines
    often forbid ncu to read counters."""
    trace, steps = machine.out / "profile.csv", gpu_report.PROFILED_STEPS
    part = whole_model(machine, "profile", 28, 1, steps)
    part.figures, part.needed = gpu_report.profile_of, False
    if machine.rehearse:
        part.missing = "there is no GPU"
    elif shutil.which("nsys"):
        told = machine.out / "profile_nsys"
        traced = ["nsys", "profile", "--trace=cuda", "--sample=none", "--cpuctxsw=none", f"--output={told}"]
        script = f'"$@" && nsys stats --report cuda_gpu_trace --format csv --output - {told}.nsys-rep >{trace}'
        part.command = ["bash", "-euc", script, "-", *machine.env, *traced, *part.command[len(machine.env):]]
    elif shutil.which("ncu"):
        counted = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--metrics", "gpu__time_duration.sum",
                   "--cache-control", "none", "--clock-control", "none", "--log-file", trace]
        part.command = [*machine.env, *counted, *part.command[len(machine.env):]]
    else:
        part.missing = "there is neither nsys nor ncu on the path"
    yield part


# In order of need: does it work, how fast is it, what else is to be known.
GROUPS = (machine_parts, test_parts, tiny_parts, benchmark_parts, peer_layer_parts, prediction_parts, step_parts,
          graph_parts, sanitizer_parts, profile_parts)

"""The parts of scripts/gpu/check.py: what runs on the machine with the GPU, and for how long at most."""
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import predictions
import report
import tables

LOAD_S = 30   # to load the first program, before the first part: LibTorch's libraries come from a disk
# Cases of each, and seconds. A fault on a GPU ends the process that meets it, and what is off by default is the newest.
TESTS = {"kernels_tests": ("[cuda]~*fused*~*cudnn*", 40), "fused_tests": ("[cuda]*fused*", 22),
         "trainer_tests": ("[cuda]~*fused*~*cudnn*~*variants*", 28), "parallel_tests": ("[cuda]", 12)}
CUDNN_TESTS = ("[cuda]*cudnn*", 100)  # cuDNN compiles its kernels for each shape
SEVERAL_PROGRAMS = ("kernels_tests", "trainer_tests")  # of tests that are named for what they test
MOST_LAYERS = 6  # of OLMoE-1B-7B: more would fit, and take longer to initialise than to train
# Of GH100. Other architectures and versions of ncu lack some of them.
NCU_METRICS = (
    "gpu__time_duration.sum",
    # Products, and how busy their units are.
    "sm__inst_executed_pipe_tensor.sum", "sm__inst_executed_pipe_tensor_op_gmma.sum",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_elapsed",
    # Warps: what is issued, exponentials and conversions, and what is waited for.
    "smsp__issue_active.avg.pct_of_peak_sustained_elapsed", "smsp__inst_executed_pipe_xu.sum",
    *(f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio"
      for reason in ("long_scoreboard", "branch_resolving", "math_pipe_throttle", "gmma", "barrier")),
    # Memory, from the SM outwards.
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_hit.sum", "l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_miss.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum", "lts__t_sectors_op_read.sum", "lts__t_sectors_op_red.sum",
    "lts__t_bytes.sum.per_second", "dram__bytes_read.sum", "dram__bytes_write.sum")
NCU_QUERY_S = 6  # to list what it knows, within the limit of the part that counts
KNOWN_GPUS = r"\b(a100|b200|h100|h200)\b(?!.*(pcie|nvl))"  # of --dry-run --gpu, which are the SXM ones
MODELLED_GPUS = ("h100", "h200")  # of olmoe-plan --kernels
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
    figures: object = field(default=report.last_lines)  # what the report says of its log
    needed: bool = True        # for a "go"
    may_not_fit: bool = False  # out of memory is a finding, not a failure


class Machine:
    """What runs here, and how the bundle's programs are started."""

    def __init__(self, rehearse, out, watch):
        self.rehearse, self.out, self.watch = rehearse, out, watch
        self.fitted = []  # numbers of layers of OLMoE-1B-7B that training steps had room for
        self.device = "cpu" if rehearse else "cuda"
        self.env = ["./env.sh", "--without-gpu"] if rehearse else ["./env.sh"]
        self.lists = {}

    def fact(self, field_name):
        """What nvidia-smi says of the first GPU; "" where it says nothing."""
        return self.watch.facts().get(field_name, "")

    def listed(self, program, *arguments):
        """What a program of the bundle lists, "" where there is none or it takes too long."""
        command = ("timeout", "20", *self.env, program, *arguments)
        if Path("bin", program).exists() and command not in self.lists:
            self.lists[command] = subprocess.run(command, capture_output=True, text=True).stdout
        return self.lists.get(command, "")

    def most_layers(self):
        if self.rehearse:
            return 2
        free_gb = float(self.fact("memory.free")) * 1.048576e-3
        return max(2, min(MOST_LAYERS, int((free_gb - GB_BESIDE) / GB_PER_LAYER)))


def machine_parts(machine):
    """The GPU's and the system's facts, and the program's version."""
    facts = [f"{name}: {value}" for name, value in machine.watch.facts().items()]
    # What a small image has: no lscpu, no free. Some CPUs have no name.
    system = "echo CPUs: $(nproc); grep -m1 'model name' /proc/cpuinfo || true; grep '^Mem[TA]' /proc/meminfo; "
    script = 'printf "%s\\n" "$@"; ' + system + " ".join(machine.env) + " olmoe-train --version"
    yield Part("machine", 5, ["bash", "-euo", "pipefail", "-c", script, "-", *facts])


def doctor_parts(machine):
    yield Part("doctor", 12, [*machine.env, "olmoe-doctor", "configs/tiny-cpu.yaml", f"train.device={machine.device}",
                              f"run.folder={machine.out}/doctor"])


def missing_cases(machine, program, cases):
    """Why these cases of a test program cannot run; "" where they can."""
    if machine.rehearse:
        return "there is no GPU"
    found = re.search(r"^(\d+) matching test case", machine.listed(program, "--list-tests", cases), re.MULTILINE)
    return "" if found and int(found[1]) else f"the bundle has no case of {program} that is {cases}"


def cases_part(machine, name, cases, limit_s, programs):
    missing = next(filter(None, (missing_cases(machine, program, cases) for program in programs)), "")
    script = "rc=0; for program in \"${@:2}\"; do $0 $program \"$1\" || rc=$?; done; exit $rc"
    command = ["bash", "-c", script, " ".join(machine.env), cases, *programs]
    return Part(name, limit_s, command, missing, report.tests_of)


def test_parts(machine):
    for name, (cases, limit_s) in TESTS.items():
        yield cases_part(machine, name, cases, limit_s, SEVERAL_PROGRAMS if name == "fused_tests" else (name,))


def sanitizer_parts(machine):
    """compute-sanitizer on the small cases of our own kernels. Products and attention are mostly libraries' kernels,
    each of which it would have to instrument."""
    cases = "[cuda]~[large]~*attention*~*GEMM*"
    missing = missing_cases(machine, "kernels_tests", cases)
    if not missing and not shutil.which("compute-sanitizer"):
        missing = "there is no compute-sanitizer on the path"
    # A call that a library makes to try whether it can is no error.
    for tool, limit_s, *options in (("memcheck", 39, "--report-api-errors", "no"), ("racecheck", 12)):
        checker = ["compute-sanitizer", "--tool", tool, *options, "--error-exitcode", "9"]
        yield Part(f"sanitizer_{tool}", limit_s, [*machine.env, *checker, "kernels_tests", cases], missing, needed=False)


def train(machine, name, limit_s, config, *overrides):
    if f"train.device={machine.device}" in overrides and not machine.rehearse:
        overrides += ("log.host_syncs=true",)
    return Part(name, limit_s, [*machine.env, "olmoe-train", f"configs/{config}.yaml", *overrides, *NO_FILES,
                                f"run.folder={machine.out}/{name}"], figures=report.steps_of)


def tiny_parts(machine):
    """The tiny model on the device and on a CPU; in a rehearsal in float64 and in fp32."""
    other = ["train.compute_dtype=float64"] if machine.rehearse else []
    yield train(machine, "tiny_device", 9, "tiny-cpu", *REAL_TOKENS, f"train.device={machine.device}", *other)
    yield train(machine, "tiny_cpu", 9, "tiny-cpu", *REAL_TOKENS, "train.device=cpu", "run.threads=1")
    # fp32 on both: sums in another order change a loss by 1e-6 in 20 steps, a choice of expert that flips by 1e-4.
    runs = [machine.out / "tiny_device", machine.out / "tiny_cpu"]
    yield Part("device_against_cpu", 3, [sys.executable, "scripts/gpu/report.py", "compare", *runs, "--steps", "20",
                                         "--tolerance", "1e-3"])


def benchmark_part(machine, name, limit_s, pattern):
    # Seconds, without the s: Google Benchmark 1.7 knows no unit, and later ones take what has none.
    least_s = "0.01" if machine.rehearse else "0.1"
    listed = machine.listed("kernels_bench", "--benchmark_list_tests", f"--benchmark_filter={pattern}")
    missing = "" if re.search(pattern, listed) else f"the bundle has no benchmark of kernels_bench named {pattern}"
    return Part(name, limit_s, [*machine.env, "kernels_bench", f"--benchmark_filter={pattern}",
                                f"--benchmark_out={machine.out}/{name}.json", f"--benchmark_min_time={least_s}"],
                missing, report.benchmarks_of, needed=False)


def benchmark_parts(machine):
    """One layer's experts: the unfused kernels beside cuBLAS, and the fused ones in a process of their own."""
    unfused = "moe_layer.*width:0/bf16:1" if machine.rehearse else "cuda_.*fused:0|cuda_cublas"
    yield benchmark_part(machine, "layer_unfused", 18, unfused)
    yield benchmark_part(machine, "layer_fused", 18, "cuda_.*fused:1")


def model_overrides(machine, layers):
    """OLMoE-1B-7B with so many layers on one GPU, one micro-batch of generated tokens a step."""
    return [f"train.device={machine.device}", f"model.num_layers={layers}", "parallel.shard=1", "parallel.zero_stage=2",
            "train.steps=12", "train.global_batch_size=4", *GENERATED_TOKENS]


def whole_model(machine, limit_s, layers, *overrides, kind=""):
    """A run of it. `kind`: what else is special."""
    name = f"olmoe_{layers}_layers" + (f"_{kind}" if kind else "")
    return train(machine, name, limit_s, "olmoe-1b-7b", *model_overrides(machine, layers),
                 *(SMALL if machine.rehearse else []), *overrides)


def peer_part(machine, what, limit_s, shape, *arguments):
    """transformers, in the python3 that runs this."""
    absent = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    missing = f"{sys.executable} has no {' and no '.join(absent)}" if absent else ""
    name = f"transformers_{what}"
    command = [sys.executable, "bench/transformers_speed.py", what, "--device", machine.device, "--shape", shape,
               "--json", machine.out / f"{name}.json", *arguments]
    return Part(name, limit_s, command, missing, report.measured_in, needed=False)


def peer_layer_parts(machine):
    # On a CPU the others are slow or not there.
    shape, *only = ("tiny", "--experts", "eager", "grouped_mm") if machine.rehearse else ("published",)
    yield peer_part(machine, "layer", 19, shape, *only)


def fastest_experts(machine):
    """The implementation that transformers was fastest with on one layer."""
    found = machine.out / "transformers_layer.json"
    rows = json.loads(found.read_text())["rows"] if found.exists() else []
    return tables.fastest_experts(rows, default="grouped_mm")


def step_parts(machine):
    """Training steps with as many layers as fit and with half of them, whose difference is what a layer costs."""
    layers, fitted = machine.most_layers(), machine.fitted
    while layers and len(fitted) < 2:
        part = whole_model(machine, 28, layers)
        part.may_not_fit = True
        yield part
        if not report.ran_out_of_memory(machine.out / f"{part.name}.log"):
            fitted.append(layers)
        layers //= 2


def missing_fused(machine):
    return "there is no GPU" if machine.rehearse else "" if machine.fitted else "no number of layers fitted"


FUSED = "train.expert_kernels=fused"


def fused_step_parts(machine):
    """The same with the fused experts."""
    for layers in machine.fitted or [1]:
        yield replace(whole_model(machine, 24, layers, FUSED, kind="fused"), missing=missing_fused(machine), needed=False)


def few_layers(machine):
    return max(1, machine.most_layers() // 2)


def graph_parts(machine):
    """Few layers without and with a CUDA graph, whose losses are the same; and fused with a graph, and the dense twin."""
    layers, missing = few_layers(machine), "there is no GPU" if machine.rehearse else ""
    yield whole_model(machine, 23, layers, kind="again")
    yield replace(whole_model(machine, 23, layers, "train.cuda_graph=true", kind="graph"), missing=missing)
    runs = [machine.out / f"olmoe_{layers}_layers_{kind}" for kind in ("graph", "again")]
    yield Part("graph_against_no_graph", 3, [sys.executable, "scripts/gpu/report.py", "compare", *runs, "--steps", "12",
                                             "--tolerance", "0"], missing)
    yield replace(whole_model(machine, 20, layers, FUSED, "train.cuda_graph=true", kind="fused_graph"), missing=missing,
                  needed=False)
    yield replace(whole_model(machine, 18, layers, "model.ffn=dense", kind="dense"), needed=False)


CUDNN = "train.attention_kernel=cudnn"


def attention_parts(machine):
    """Attention by each kernel, in a fixed order and in any: cuDNN's tests, one layer's attention, and training steps."""
    cases, limit_s = CUDNN_TESTS
    yield replace(cases_part(machine, "cudnn_tests", cases, limit_s, SEVERAL_PROGRAMS), needed=False)
    pattern = "attention/" if machine.rehearse else "cuda_attention"
    yield benchmark_part(machine, "attention", 30, pattern)
    layers, missing = few_layers(machine), "there is no GPU" if machine.rehearse else ""
    yield replace(whole_model(machine, 23, layers, kind="flash"), needed=False)
    for kind, overrides in (("flash_any_order", ["train.deterministic_attention=false"]), ("cudnn", [CUDNN]),
                            ("cudnn_graph", [CUDNN, "train.cuda_graph=true"]),
                            ("cudnn_any_order", [CUDNN, "train.deterministic_attention=false"])):
        yield replace(whole_model(machine, 25, layers, *overrides, kind=kind), missing=missing, needed=False)


def ablation_parts(machine):
    """What gathering and epilogues cost the fused kernels of the experts: these with less to do."""
    part = benchmark_part(machine, "ablations", 14, tables.ABLATION)
    yield replace(part, missing="there is no GPU" if machine.rehearse else part.missing)


def peer_train_parts(machine):
    layers = few_layers(machine)
    yield peer_part(machine, "train", 34, "rehearsal" if machine.rehearse else "published",
                    "--experts", fastest_experts(machine), "--layers", layers, max(1, layers // 2))


def known_gpu(machine):
    """The planner's name of the GPU that is here, or of the one that a rehearsal stands for; "" if it knows none."""
    name = "NVIDIA H100" if machine.rehearse else machine.fact("name")
    found = re.search(KNOWN_GPUS, name.lower())
    return found[1] if found else ""


def prediction_parts(machine):
    gpu = known_gpu(machine)
    unknown = "" if gpu else f"the planner does not know {machine.fact('name')}"
    yield Part("prediction", 3, [*machine.env, "olmoe-train", "configs/olmoe-1b-7b.yaml", "--dry-run", "--gpu", gpu],
               unknown, report.predictions_of, needed=False)
    # Before the runs: with as many layers as they try first.
    most = machine.most_layers()
    plan = [*machine.env, "olmoe-plan", "configs/olmoe-1b-7b.yaml", "--kernels", "--gpu", gpu]
    script = " && ".join(shlex.join([*plan, *model_overrides(machine, layers)]) for layers in (most, max(1, most // 2)))
    yield Part("kernel_prediction", 3, ["bash", "-c", script],
               unknown or ("" if gpu in MODELLED_GPUS else f"kernels are modelled for {' and '.join(MODELLED_GPUS)} alone"),
               predictions.of_kernels, needed=False)


def profile_parts(machine):
    """Kernels of training steps with one layer, by LibTorch's profiler, which needs no right to read counters."""
    bundled = Path("bin", "profile_steps").exists()
    for kind, overrides in (("unfused", []), ("fused", [FUSED])):
        part = whole_model(machine, 14, 1, *overrides)
        program = part.command.index("olmoe-train")
        name = f"profile_{kind}"
        command = [*part.command[:program], "profile_steps", "--out", machine.out / f"{name}.csv",
                   *[f"train.steps={report.PROFILED_STEPS}" if word == "train.steps=12" else
                     f"run.folder={machine.out}/{name}" if str(word).startswith("run.folder=") else word
                     for word in part.command[program + 1:]]]
        missing = "" if bundled else "the bundle has no profile_steps"
        if kind == "fused" and machine.rehearse:
            missing = "there is no GPU"
        yield Part(name, 13, command, missing, report.profile_of, needed=False)


def known_metrics(machine):
    """(those of NCU_METRICS that this ncu can count on this GPU, "") or ((), why there are none)."""
    if machine.rehearse:
        return (), "there is no GPU"
    if not shutil.which("ncu"):
        return (), "there is no ncu on the path"
    query = ["timeout", str(NCU_QUERY_S), *machine.env, "ncu", "--query-metrics", "--query-metrics-mode", "all", "--devices", "0"]
    said = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    listed = {line.split()[0] for line in said.splitlines() if line.strip()}
    known = tuple(metric for metric in NCU_METRICS if metric in listed)
    why = (re.findall(r"^==ERROR== (.+)", said, re.MULTILINE) or said.splitlines()[-1:] or ["nothing"])[0]
    return known, "" if known else f"ncu lists none of the metrics; it said: {why}"


def counter_parts(machine):
    """What ncu counts of each kernel of the layer's benchmarks. Rented machines often forbid it to read counters, and one
    name that it does not know would keep it from counting at all."""
    known, missing = known_metrics(machine)
    unknown = [metric for metric in NCU_METRICS if metric not in known]

    def figures(log, folder):
        return report.counters_of(log, folder) | ({"not known to this ncu": unknown} if unknown else {})

    counted = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(known),
               "--cache-control", "none", "--clock-control", "none", "--kernel-name", "regex:multiply|gemm|Kernel",
               "--launch-count", "12", "--log-file", machine.out / "counters.csv"]
    yield Part("counters", 16 + NCU_QUERY_S, [*machine.env, *counted, "kernels_bench", "--benchmark_min_time=0.01",
                                              "--benchmark_filter=cuda_experts.*T:16384/skew:0"],
               missing, figures, needed=False)


# In order of need: does it work, how fast is it, what else is to be known. A call is what a machine that is lent for
# minutes can do in one command.
CALLS = {
    1: (machine_parts, test_parts, benchmark_parts, peer_layer_parts, prediction_parts, step_parts, fused_step_parts),
    2: (machine_parts, graph_parts, tiny_parts, prediction_parts, peer_train_parts, profile_parts, counter_parts,
        sanitizer_parts, doctor_parts),
    3: (machine_parts, prediction_parts, attention_parts, ablation_parts),
}

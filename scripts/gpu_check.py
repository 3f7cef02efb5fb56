"""The parts of scripts/gpu_check.sh, which starts this in a bundle's folder: what runs, and for how long."""
import argparse
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import gpu_report

MOST_SECONDS = 540
PATIENCE = 4  # a rehearsal's limits are so many times longer: its machine may be busy with something else
TESTS = {"kernels_tests": 70, "parallel_tests": 25, "trainer_tests": 45}
KNOWN_GPUS = ("a100", "b200", "h100", "h200")  # of --dry-run --gpu
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


class Machine:
    """What runs here, and how the bundle's programs are started."""

    def __init__(self, rehearse, out):
        self.rehearse, self.out = rehearse, out
        self.device = "cpu" if rehearse else "cuda"
        self.env = ["./env.sh", "--without-gpu"] if rehearse else ["./env.sh"]
        self.gpu = "" if rehearse else self.ask("name")

    def ask(self, field_name):
        """What nvidia-smi says of the first GPU."""
        command = ["nvidia-smi", f"--query-gpu={field_name}", "--format=csv,noheader,nounits"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()

    def listed(self, program, *arguments):
        """What a program of the bundle lists, "" where there is none."""
        if not Path("bin", program).exists():
            return ""
        done = subprocess.run([*self.env, program, *arguments], capture_output=True, text=True, timeout=20)
        return done.stdout

    def most_layers(self):
        if self.rehearse:
            return 2
        free_gb = int(self.ask("memory.free")) * 1.048576e-3
        return max(2, min(16, int((free_gb - GB_BESIDE) / GB_PER_LAYER)))


def machine_part(machine):
    """nvidia-smi's and the system's facts, and the program's version."""
    gpu = ("nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit "
           "--format=csv; nvidia-smi -L; ")
    script = ("" if machine.rehearse else gpu) + "lscpu | grep -E '^(Model name|CPU.s.):'; free -g | sed -n 2p; " + \
        " ".join(machine.env) + " olmoe-train --version"
    return Part("machine", 15, ["bash", "-euo", "pipefail", "-c", script])


def cuda_cases(machine, program):
    """Why the cases of a test program with the tag [cuda] cannot run; "" where they can."""
    if machine.rehearse:
        return "there is no GPU"
    found = re.search(r"^(\d+) matching test case", machine.listed(program, "--list-tests", "[cuda]"), re.MULTILINE)
    return "" if found and int(found[1]) else f"the bundle has no case of {program} with the tag [cuda]"


def test_parts(machine):
    for program, limit_s in TESTS.items():
        yield Part(program, limit_s, [*machine.env, program, "[cuda]"], cuda_cases(machine, program))
    for tool in ("memcheck", "racecheck"):
        missing = cuda_cases(machine, "kernels_tests")
        if not missing and not shutil.which("compute-sanitizer"):
            missing = "there is no compute-sanitizer on the path"
        checker = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        yield Part(f"sanitizer_{tool}", 50, [*machine.env, *checker, "kernels_tests", "[cuda]~[large]"], missing)


def train(machine, name, limit_s, config, *overrides):
    if f"train.device={machine.device}" in overrides and not machine.rehearse:
        overrides += ("log.host_syncs=true",)
    return Part(name, limit_s, [*machine.env, "olmoe-train", f"configs/{config}.yaml", *overrides, *NO_FILES,
                                f"run.folder={machine.out}/{name}"], figures=gpu_report.steps_of)


def tiny_parts(machine):
    """The tiny model on the device and on a CPU; in a rehearsal in float64 and in fp32."""
    other = ["train.compute_dtype=float64"] if machine.rehearse else []
    yield train(machine, "tiny_device", 15, "tiny-cpu", *REAL_TOKENS, f"train.device={machine.device}", *other)
    yield train(machine, "tiny_cpu", 20, "tiny-cpu", *REAL_TOKENS, "train.device=cpu", "run.threads=1")
    # fp32 on both: sums in another order change a loss by 1e-6 in 20 steps, a choice of expert that flips by 1e-4.
    runs = [machine.out / "tiny_device", machine.out / "tiny_cpu"]
    yield Part("device_against_cpu", 5, [sys.executable, "scripts/gpu_report.py", "compare", *runs, "--steps", "20",
                                         "--tolerance", "1e-3"])


def benchmark_part(machine):
    pattern = "rms_norm_both/width:0" if machine.rehearse else "cuda"
    listed = machine.listed("kernels_bench", "--benchmark_list_tests", f"--benchmark_filter={pattern}")
    missing = "" if pattern in listed else f"the bundle has no benchmark of kernels_bench named {pattern}"
    quick = ["--benchmark_min_time=0.01"] if machine.rehearse else []
    return Part("kernels_bench", 40, [*machine.env, "kernels_bench", f"--benchmark_filter={pattern}",
                                      f"--benchmark_out={machine.out}/kernels_bench.json", *quick], missing,
                gpu_report.benchmarks_of)


def layer_parts(machine):
    """OLMoE-1B-7B with fewer layers, on generated tokens, twice: the difference is what a layer costs. And as a CUDA graph."""
    most = machine.most_layers()

    def part(name, layers, *overrides):
        return train(machine, name, 45, "olmoe-1b-7b", f"train.device={machine.device}", f"model.num_layers={layers}",
                     "parallel.shard=1", "parallel.zero_stage=2", "train.steps=12", "train.global_batch_size=4",
                     *GENERATED_TOKENS, *(SMALL if machine.rehearse else []), *overrides)

    for layers in (most, most // 2):
        yield part(f"olmoe_{layers}_layers", layers)
    missing = "there is no GPU" if machine.rehearse else ""
    yield replace(part("olmoe_graph", most // 2, "train.cuda_graph=true"), limit_s=36, missing=missing)
    runs = [machine.out / "olmoe_graph", machine.out / f"olmoe_{most // 2}_layers"]
    yield Part("graph_against_no_graph", 5, [sys.executable, "scripts/gpu_report.py", "compare", *runs, "--steps", "12",
                                             "--tolerance", "0"], missing)


def prediction_part(machine):
    gpu = "h100" if machine.rehearse else next((known for known in KNOWN_GPUS if known in machine.gpu.lower()), "")
    return Part("prediction", 10, [*machine.env, "olmoe-train", "configs/olmoe-1b-7b.yaml", "--dry-run", "--gpu", gpu],
                "" if gpu else f"the dry run does not know {machine.gpu}", gpu_report.predictions_of)


def all_parts(machine):
    yield machine_part(machine)
    yield Part("doctor", 30, [*machine.env, "olmoe-doctor", "configs/tiny-cpu.yaml", f"train.device={machine.device}",
                              f"run.folder={machine.out}/doctor"])
    yield from test_parts(machine)
    yield from tiny_parts(machine)
    yield benchmark_part(machine)
    yield from layer_parts(machine)
    yield prediction_part(machine)


def run(part, out, patience=1):
    """Runs one part and returns what the report keeps of it."""
    limit_s = part.limit_s * patience
    result = {"name": part.name, "limit_s": limit_s, "command": " ".join(map(str, part.command))}
    if part.missing:
        return result | {"status": "not run", "reason": part.missing}
    log = out / f"{part.name}.log"
    begin = time.monotonic()
    with log.open("w") as sink:
        rc = subprocess.run(["timeout", "--kill-after=2", str(limit_s), *map(str, part.command)], stdout=sink,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    status = "passed" if rc == 0 else "timed out" if rc in (124, 137) else "failed"
    result |= {"status": status, "rc": rc, "seconds": round(time.monotonic() - begin, 2)}
    try:
        result["figures"] = part.figures(log, out / part.name)
    except (OSError, ValueError, KeyError) as error:
        if status == "passed":
            result |= {"status": "failed", "reason": f"ended well, but left no figures: {error}"}
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("report", nargs="?", type=Path, default=Path("report"))
    arguments = parser.parse_args()
    out = arguments.report.resolve()
    if out.exists() and not (out / "report.json").exists():
        sys.exit(f"error: {out} is there and is no report")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if not arguments.rehearse:  # nothing can run without what env.sh asks for, and it says what that is
        refused = subprocess.run(["./env.sh", "true"]).returncode
        if refused:
            sys.exit(refused)
    results = []
    for part in all_parts(Machine(arguments.rehearse, out)):
        print(f"== {part.name}", file=sys.stderr, flush=True)
        results.append(run(part, out, PATIENCE if arguments.rehearse else 1))
        print(f"   {gpu_report.outcome(results[-1])}", file=sys.stderr, flush=True)
    go = gpu_report.write(out, results, arguments.rehearse)
    print(f"{out / 'report.md'}", file=sys.stderr)
    return 0 if go else 1


if __name__ == "__main__":
    sys.exit(main())

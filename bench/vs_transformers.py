#!/usr/bin/env python3
"""Compares the time of optimizer steps of olmoe-train and of Hugging Face transformers.

    bench/vs_transformers.py [--config tiny|block|all] [--threads 2] [--repeats 5]
                             [--program build/olmoe-train] [--json FILE]

Both sides start from the weights of one random OlmoeForCausalLM and repeat one batch: forward, backward, clipping to
norm 1 and AdamW (fused on the side of transformers), on the same number of threads. transformers runs in float32 and
in pure bfloat16 with each experts implementation that it offers for CPUs; the fastest of each dtype is the peer. Ours
runs in float32 and in bfloat16 with float32 master weights. The contestants then take turns, each turn in a new process
or with a new model, and the first steps of a turn are not counted. The cross-entropy of step 1 must agree.

Needs an idle machine, and in the Python that runs it: pip install torch==2.11.0 transformers==5.17.0
"""
import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    import numpy
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"{error}. Install what is compared with: pip install torch==2.11.0 transformers==5.17.0 numpy")

EXPERTS = ("grouped_mm", "batched_mm", "eager")
DTYPES = ("float32", "bfloat16")
BALANCE_WEIGHT, LR, BETAS, EPS, WEIGHT_DECAY, CLIP_NORM = 0.01, 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
# fp32: two correct programs. bf16: weights rounded alike, activations rounded in other places.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
HOPELESS = 5             # a first step this many times slower than the best is not repeated
MAX_LOAD = 0.3           # one-minute load average at the start
MAX_FOREIGN_CPUS = 0.3   # CPUs busy with anything else, over two seconds at the start and over each turn


# GFLOP/s of the best experts implementation of the peer in a reference measurement, on two threads of a Xeon with AMX.
# Far less here means that the machine, not the program, is slow.
REFERENCE_GFLOP_PER_S = {"tiny": {"float32": 49, "bfloat16": 31}, "block": {"float32": 76, "bfloat16": 90}}


@dataclass(frozen=True)
class Shape:
    """One model and its batch. `warmup` steps of a turn are not counted, `steps` are."""
    name: str
    d_model: int
    expert_width: int
    layers: int
    experts: int
    top_k: int
    heads: int
    vocab: int
    sequences: int
    length: int
    warmup: int
    steps: int

    def tokens(self):
        return self.sequences * self.length

    def step_gflop(self):
        """Forward and backward, causal attention, active parameters without the embedding."""
        block = 4 * self.d_model**2 + self.experts * self.d_model + 3 * self.top_k * self.d_model * self.expert_width
        active = self.layers * block + self.vocab * self.d_model
        return self.tokens() * 6 * (active + self.layers * self.d_model * self.length) / 1e9

    def batched_mm_bytes(self):
        """batched_mm copies the weights of an expert for each row that is routed to it."""
        return self.tokens() * self.top_k * 3 * self.d_model * self.expert_width * 4


SHAPES = {
    "tiny": Shape("tiny", 256, 128, 4, 16, 4, 4, 264, 8, 256, warmup=3, steps=12),
    "block": Shape("block", 2048, 1024, 1, 64, 8, 16, 2048, 1, 1024, warmup=2, steps=4),
}


@dataclass
class Turn:
    """Measurements of one contestant in one turn."""
    step_s: list
    first_loss: float
    last_loss: float
    foreign_cpus: float


def busy_cpu_s():
    """CPU seconds that this machine was busy since boot, including steal time."""
    times = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(times) - times[3] - times[4]) / os.sysconf("SC_CLK_TCK")


def own_cpu_s():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


class ForeignCpus:
    """Mean number of CPUs busy with other processes than this one and its children."""

    def __enter__(self):
        self.start = time.monotonic(), busy_cpu_s(), own_cpu_s()
        return self

    def __exit__(self, *_):
        wall, busy, own = (now - then for now, then in zip((time.monotonic(), busy_cpu_s(), own_cpu_s()), self.start))
        self.mean = max(0.0, busy - own) / wall


def why_busy():
    """Why this machine is too busy to measure on; empty if it is not."""
    with ForeignCpus() as foreign:
        time.sleep(2)
    load = os.getloadavg()[0]
    reasons = [f"the load is {load:.2f}, above {MAX_LOAD}"] if load > MAX_LOAD else []
    if foreign.mean > MAX_FOREIGN_CPUS:
        reasons.append(f"{foreign.mean:.2f} CPUs are busy with something else, more than {MAX_FOREIGN_CPUS}")
    return "; ".join(reasons)


def make_inputs(shape, folder):
    """Writes the starting weights and a token file of exactly one step; returns the token ids [B, S]."""
    config = transformers.OlmoeConfig(
        vocab_size=shape.vocab, hidden_size=shape.d_model, intermediate_size=shape.expert_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        num_experts=shape.experts, num_experts_per_tok=shape.top_k, norm_topk_prob=False,
        max_position_embeddings=shape.length, rms_norm_eps=1e-5, tie_word_embeddings=False,
        router_aux_loss_coef=BALANCE_WEIGHT, pad_token_id=None, bos_token_id=None, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    torch.manual_seed(1)
    transformers.OlmoeForCausalLM(config).save_pretrained(folder / "weights")
    ids = torch.randint(0, shape.vocab, (shape.sequences, shape.length))
    numpy.asarray(ids, dtype="<u2").tofile(folder / "tokens.npy")
    return ids


class Ours:
    """olmoe-train in one compute dtype; a turn is a new process."""

    def __init__(self, shape, dtype, folder, args):
        self.name, self.dtype, self.experts = "ours", dtype, "-"
        self.shape, self.folder, self.program, self.threads = shape, folder, args.program, args.threads

    def config(self, run_folder, steps):
        shape = self.shape
        return {
            "run": {"folder": str(run_folder), "threads": self.threads},
            "model": {"vocab_size": shape.vocab, "d_model": shape.d_model, "num_layers": shape.layers,
                      "num_heads": shape.heads, "num_kv_heads": shape.heads, "num_experts": shape.experts,
                      "top_k": shape.top_k, "expert_width": shape.expert_width,
                      "load_balancing_weight": BALANCE_WEIGHT, "router_z_weight": 0.0},
            "train": {"steps": steps, "compute_dtype": self.dtype, "micro_batch_size": shape.sequences,
                      "global_batch_size": shape.sequences, "init_from": str(self.folder / "weights")},
            "optimizer": {"lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": WEIGHT_DECAY,
                          "clip_norm": CLIP_NORM},
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "parallel": {"zero_stage": 2},
            "data": {"paths": [str(self.folder / "tokens.npy")], "sequence_length": shape.length},
            "checkpoint": {"every_steps": 0, "save_last": False},
            "log": {"every_steps": 1000000},
        }

    def steps(self, count):
        """Returns the seconds and the cross-entropy of each step."""
        with tempfile.TemporaryDirectory(dir=self.folder) as run_folder:
            config = Path(run_folder) / "bench.yaml"
            config.write_text(json.dumps(self.config(run_folder, count), indent=1))
            done = subprocess.run([self.program, config], env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
                                  capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{self.program} returned {done.returncode}:\n{done.stdout}{done.stderr}")
            lines = [json.loads(line) for line in (Path(run_folder) / "metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "tokens_per_s" in line]
        if len(lines) != count:
            sys.exit(f"{self.program} wrote {len(lines)} steps of {count}")
        return [self.shape.tokens() / line["tokens_per_s"] for line in lines], [line["loss"] for line in lines]


class Transformers:
    """OlmoeForCausalLM in one dtype with one experts implementation; a turn is a new model and optimizer."""

    def __init__(self, shape, dtype, experts, folder, ids):
        self.name, self.dtype, self.experts = "transformers", dtype, experts
        self.shape, self.folder, self.ids = shape, folder, ids

    def steps(self, count):
        """Returns the seconds and the cross-entropy of each step."""
        model = transformers.OlmoeForCausalLM.from_pretrained(
            self.folder / "weights", dtype=getattr(torch, self.dtype), attn_implementation="sdpa",
            experts_implementation=self.experts).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY,
                                      fused=True)
        seconds, losses = [], []
        for _ in range(count):
            start = time.perf_counter()
            out = model(self.ids, labels=self.ids, use_cache=False, output_router_logits=True)
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            losses.append((out.loss.detach().double() - BALANCE_WEIGHT * out.aux_loss.detach().double()).item())
            seconds.append(time.perf_counter() - start)
        del model, optimizer, out
        gc.collect()
        return seconds, losses


def take_turn(contestant, warmup, steps):
    with ForeignCpus() as foreign:
        seconds, losses = contestant.steps(warmup + steps)
    return Turn(seconds[warmup:], losses[0], losses[-1], foreign.mean)


def fastest_peer(shape, dtype, folder, ids, report):
    """Tries each experts implementation for a few steps; returns the fastest contestant of this dtype."""
    best, best_s = None, float("inf")
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for experts in EXPERTS:
        if experts == "batched_mm" and shape.batched_mm_bytes() > free_bytes / 2:
            report(f"  transformers {dtype} {experts}: cannot run, it needs {shape.batched_mm_bytes() / 1e9:.0f} GB")
            continue
        contestant = Transformers(shape, dtype, experts, folder, ids)
        cold_s = take_turn(contestant, 0, 1).step_s[0]
        if cold_s > HOPELESS * best_s:
            report(f"  transformers {dtype} {experts}: {cold_s:.3f} s in its first step, given up")
            continue
        turn = take_turn(contestant, 1, 2)
        report(f"  transformers {dtype} {experts}: {min(turn.step_s):.3f} s, {shape.step_gflop() / min(turn.step_s):.0f} GFLOP/s")
        if min(turn.step_s) < best_s:
            best, best_s = contestant, min(turn.step_s)
    return best


def check_losses(contestants, turns):
    """Differences in the cross-entropy of step 1, which must agree if both compute the same model."""
    first = {(c.name, c.dtype): t[0].first_loss for c, t in zip(contestants, turns)}
    problems = []
    for dtype in DTYPES:
        ours, theirs = first["ours", dtype], first["transformers", dtype]
        if not abs(ours - theirs) <= LOSS_TOLERANCE[dtype] * abs(theirs):
            problems.append(f"{dtype}: the loss of step 1 is {ours:.6f} here and {theirs:.6f} in transformers")
    return problems


def summarize(shape, contestant, turns):
    step_s = [s for turn in turns for s in turn.step_s]
    median, least = statistics.median(step_s), min(step_s)
    return {"side": contestant.name, "dtype": contestant.dtype, "experts": contestant.experts, "median_s": median,
            "min_s": least, "gflop_per_s": shape.step_gflop() / median, "tokens_per_s": shape.tokens() / median,
            "turns": [asdict(turn) for turn in turns]}


def speedups(rows):
    """Ours against the peer of the same dtype and the fastest of all, by medians and by minima."""
    ours = {row["dtype"]: row for row in rows if row["side"] == "ours"}
    peers = {row["dtype"]: row for row in rows if row["side"] == "transformers"}
    best = min(peers.values(), key=lambda row: row["median_s"])
    out = {}
    for dtype in DTYPES:
        for what, peer in (("same dtype", peers[dtype]), ("best of all", best)):
            out[f"{dtype} against {what}"] = {
                key: peer[f"{key}_s"] / ours[dtype][f"{key}_s"] for key in ("median", "min")}
    return out


def compare(shape, args, report):
    report(f"\n{shape.name}: {shape.sequences} x {shape.length} tokens, {shape.step_gflop():.1f} GFLOP a step, "
           f"{args.threads} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = make_inputs(shape, folder)
        contestants = []
        for dtype in DTYPES:
            contestants += [Ours(shape, dtype, folder, args), fastest_peer(shape, dtype, folder, ids, report)]
        turns = [[] for _ in contestants]
        for _ in range(args.repeats):
            for contestant, its_turns in zip(contestants, turns):
                its_turns.append(take_turn(contestant, shape.warmup, shape.steps))
    rows = [summarize(shape, contestant, its_turns) for contestant, its_turns in zip(contestants, turns)]
    report(f"  {'side':<14}{'dtype':<10}{'experts':<12}{'median s':>9}{'min s':>9}{'GFLOP/s':>9}{'tokens/s':>10}"
           f"{'loss 1':>10}{'loss n':>10}")
    for row in rows:
        report(f"  {row['side']:<14}{row['dtype']:<10}{row['experts']:<12}{row['median_s']:>9.3f}{row['min_s']:>9.3f}"
               f"{row['gflop_per_s']:>9.1f}{row['tokens_per_s']:>10.0f}{row['turns'][0]['first_loss']:>10.5f}"
               f"{row['turns'][0]['last_loss']:>10.5f}")
    for row in rows:
        if row["side"] == "transformers":
            report(f"  transformers {row['dtype']}: {row['gflop_per_s']:.0f} GFLOP/s here, "
                   f"{REFERENCE_GFLOP_PER_S[shape.name][row['dtype']]} in the reference measurement")
    faster = speedups(rows)
    for what, ratio in faster.items():
        report(f"  ours {what}: {ratio['median']:.2f}x by medians, {ratio['min']:.2f}x by minima")
    problems = check_losses(contestants, turns)
    worst = max(turn.foreign_cpus for its_turns in turns for turn in its_turns)
    if worst > MAX_FOREIGN_CPUS:
        problems.append(f"{shape.name}: in one turn {worst:.2f} CPUs were busy with something else")
    return {"shape": asdict(shape), "step_gflop": shape.step_gflop(), "rows": rows, "speedups": faster}, problems


def machine(args):
    cpu = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
           if line.startswith("model name")]
    version = subprocess.run([args.program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"cpu": cpu[0] if cpu else "unknown", "cpus": os.cpu_count(), "threads": args.threads, "program": version,
            "torch": torch.__version__, "transformers": transformers.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--program", default=str(Path(__file__).parents[1] / "build/olmoe-train"))
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--force", action="store_true", help="run on a busy machine; the result is marked as invalid")
    args = parser.parse_args()

    busy = why_busy()
    if busy and not args.force:
        sys.exit(f"refusing to measure: {busy}. Wait, or try the script out with --force")
    problems = ["--force was given" + (f" and {busy}" if busy else "")] if args.force else []
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where = machine(args)
    print("  ".join(f"{key} {value}" for key, value in where.items()), flush=True)
    results = {}
    for name in SHAPES if args.config == "all" else [args.config]:
        results[name], more = compare(SHAPES[name], args, lambda text: print(text, flush=True))
        problems += more
    for problem in problems:
        print(f"INVALID: {problem}")
    if args.json:
        document = {"valid": not problems, "problems": problems, "machine": where, "results": results}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

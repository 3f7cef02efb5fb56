#!/usr/bin/env python3
"""Times OLMoE-1B-7B in Hugging Face transformers on this machine, for comparison with our own figures.

    bench/transformers_speed.py layer --json FILE [--experts eager ...] [--device cpu] [--shape published]
        The experts of one layer, forward and backward, with each experts implementation, for balanced and for skewed
        routing. And this machine's rate on one large GEMM. Ours: kernels_bench --benchmark_filter=moe_layer
    bench/transformers_speed.py train --json FILE --layers N [N ...] [--experts grouped_mm] [--device cpu] [...]
        Training steps of OlmoeForCausalLM with so many layers: forward, backward, clipping, fused AdamW, on random
        tokens, without gradient checkpointing and torch.compile. If N layers run out of memory that is reported, and
        half as many are tried until two runs succeed. Ours: olmoe-train with model.num_layers=N

All in bf16, except for the optimizer state of `train`, of which it tries two kinds:
    bf16   weights, gradients and moments, 8 bytes a parameter. The fastest, but too imprecise for a long run.
    fp32   master weights and moments, as ours: with the bf16 weights, 18 bytes a parameter.
The file is rewritten after each measurement.
"""
import argparse
import gc
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # 0 lets transformers fetch kernels that it does not bring along
try:
    import torch
    import transformers
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts
except ImportError as error:
    sys.exit(f"{error}. Install what is timed: pip install torch==2.11.0 transformers==5.17.0")

EXPERTS = ("eager", "grouped_mm", "batched_mm", "deepgemm", "sonicmoe")  # results are held against the first one's
SKEWS = (0, 1)             # 0: balanced. 1: as early in training, the busiest expert gets some three times the mean
WEIGHT_DEVIATION = 0.02    # of trained ones; inputs are those of a norm, of deviation 1
LARGEST_DIFFERENCE = 0.05  # of bf16 results, relative to the largest
LAYER_WARMUP, LAYER_TIMED = 3, 15
LONGEST_S = 1              # for one implementation and routing; a slow one is timed less often
STEP_WARMUP, STEP_TIMED = 2, 4
STATES = ("bf16", "fp32")
OUT_OF_MEMORY = "out of memory"
LR, BETAS, EPS, WEIGHT_DECAY, CLIP_NORM, BALANCE_WEIGHT = 4e-4, (0.9, 0.95), 1e-8, 0.1, 1.0, 0.01


@dataclass(frozen=True)
class Shape:
    sequences: int
    length: int
    d_model: int
    expert_width: int
    experts: int
    top_k: int
    heads: int
    vocab: int
    product: int  # rows and columns of the product that gives the machine's rate

    def tokens(self):
        return self.sequences * self.length

    def forward_flops(self):
        """Of the products of one layer's experts; the backward has twice as many."""
        return 6 * self.tokens() * self.expert_width * self.d_model * self.top_k

    def batched_mm_bytes(self):
        """batched_mm copies the weights of an expert for each row that is routed to it."""
        return self.tokens() * self.top_k * 2 * self.d_model * self.expert_width * 2

    def config(self, layers):
        return transformers.OlmoeConfig(
            vocab_size=self.vocab, hidden_size=self.d_model, intermediate_size=self.expert_width,
            num_hidden_layers=layers, num_attention_heads=self.heads, num_key_value_heads=self.heads,
            num_experts=self.experts, num_experts_per_tok=self.top_k, norm_topk_prob=False,
            max_position_embeddings=self.length, rms_norm_eps=1e-5, tie_word_embeddings=False,
            router_aux_loss_coef=BALANCE_WEIGHT, pad_token_id=None, bos_token_id=None, eos_token_id=None,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0})


SHAPES = {
    "published": Shape(4, 4096, 2048, 1024, 64, 8, 16, 50304, product=8192),  # of bench/moe_layer_cuda.cpp
    "width": Shape(1, 1024, 2048, 1024, 64, 8, 16, 2048, product=2048),       # these two: of bench/kernels_bench.cpp
    "tiny": Shape(8, 256, 256, 128, 16, 4, 4, 512, product=1024),
    "rehearsal": Shape(4, 64, 64, 32, 8, 2, 4, 512, product=512),             # of scripts/gpu/parts.py
}


class Device:
    """Time and memory of a GPU by its own events and allocator; of a CPU the time alone."""

    def __init__(self, name):
        self.name, self.is_gpu = name, name == "cuda"
        self.label = torch.cuda.get_device_name() if self.is_gpu else "cpu"

    def now(self):
        if not self.is_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin, end):
        if not self.is_gpu:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def free_bytes(self):
        if self.is_gpu:
            return torch.cuda.mem_get_info()[0]
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def release(self):
        """Frees unreferenced memory, and resets the peak statistics."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self):
        """Peak bytes of tensors, and peak bytes reserved by the allocator, since release()."""
        if not self.is_gpu:
            return {}
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved()}


class Findings:
    """Measurements, in a file that is complete after each of them."""

    def __init__(self, path, device, shape):
        self.path, self.rows = path, []
        self.head = {"device": device.label, "torch": torch.__version__, "transformers": transformers.__version__,
                     "shape": asdict(shape)}

    def add(self, row):
        self.rows.append(row)
        print("  ".join(f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()), flush=True)
        self.path.write_text(json.dumps(self.head | {"rows": self.rows}, indent=1) + "\n")


def attempt(measure):
    """(result, "") or (None, reason of the failure). The error is not kept: its traceback references tensors."""
    try:
        return measure(), ""
    except torch.OutOfMemoryError:
        return None, OUT_OF_MEMORY
    except Exception as error:  # kernels that are missing or do not support this GPU: the others are still timed
        return None, f"{type(error).__name__}: {error}".split("\n")[0]


# One layer's experts

def routing(shape, skew, device):
    """Scores and ids [T, K], and the rows of the busiest expert over the mean."""
    experts = torch.arange(shape.experts, device=device.name)
    logits = torch.randn(shape.tokens(), shape.experts, device=device.name) - experts * (0.03 * skew)
    scores, ids = logits.softmax(-1).topk(shape.top_k, -1)
    counts = torch.bincount(ids.flatten(), minlength=shape.experts)
    return scores, ids, (counts.max() / counts.float().mean()).item()


def make_experts(shape, device):
    with torch.device(device.name):
        layer = OlmoeExperts(shape.config(layers=1)).bfloat16()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=WEIGHT_DEVIATION)
    return layer


def time_layer(layer, implementation, inputs, device):
    """Median seconds of forward and backward, and the output. Gradients are not accumulated."""
    layer.config._experts_implementation = implementation
    x, ids, scores, dy = inputs
    leaves = (x, scores, *layer.parameters())
    forward_s, backward_s, began = [], [], time.monotonic()
    while len(forward_s) < LAYER_WARMUP + LAYER_TIMED:
        if len(forward_s) > 1 and time.monotonic() - began > LONGEST_S:
            break
        for leaf in leaves:
            leaf.grad = None
        begin = device.now()
        y = layer(x, ids, scores)
        middle = device.now()
        y.backward(dy)
        end = device.now()
        backward_s.append(device.seconds(middle, end))
        forward_s.append(device.seconds(begin, middle))
    warmup = min(LAYER_WARMUP, len(forward_s) - 1)
    return [statistics.median(times[warmup:]) for times in (forward_s, backward_s)], y.detach()


def time_product(shape, device):
    """bf16 FLOP/s of one large GEMM, by cuBLAS on a GPU."""
    a, b = (torch.randn(shape.product, shape.product, device=device.name).bfloat16() for _ in range(2))
    b *= WEIGHT_DEVIATION  # values move the power, and so the clock, of a GPU
    seconds = []
    for _ in range(LAYER_WARMUP + LAYER_TIMED):
        begin = device.now()
        torch.mm(a, b.t())
        seconds.append(device.seconds(begin, device.now()))
    return 2 * shape.product**3 / statistics.median(seconds[LAYER_WARMUP:])


def layer_rows(shape, device, implementations):
    yield {"product": shape.product, "tflop_per_s": time_product(shape, device) / 1e12}
    layer = make_experts(shape, device)
    for skew in SKEWS:
        scores, ids, busiest = routing(shape, skew, device)
        x, dy = (torch.randn(shape.tokens(), shape.d_model, device=device.name).bfloat16() for _ in range(2))
        inputs = (x.requires_grad_(), ids, scores.bfloat16().requires_grad_(), dy)
        defined = None
        for experts in implementations:
            row = {"experts": experts, "skew": skew, "busiest": busiest}
            if experts == "batched_mm" and shape.batched_mm_bytes() > device.free_bytes() / 2:
                yield row | {"cannot": f"it copies weights for each row, {shape.batched_mm_bytes() / 1e9:.0f} GB"}
                continue
            found, why_not = attempt(lambda: time_layer(layer, experts, inputs, device))
            device.release()
            if why_not:
                yield row | {"cannot": why_not}
                continue
            (forward_s, backward_s), y = found
            defined = y.float() if defined is None else defined
            difference = ((y.float() - defined).abs().max() / defined.abs().max()).item()
            if not difference <= LARGEST_DIFFERENCE:
                yield row | {"cannot": f"its result differs from the first by {difference:.2g} of the largest"}
                continue
            flops = shape.forward_flops()
            yield row | {"forward_ms": forward_s * 1e3, "backward_ms": backward_s * 1e3, "difference": difference,
                         "forward_tflop_per_s": flops / forward_s / 1e12,
                         "backward_tflop_per_s": 2 * flops / backward_s / 1e12}


# Training steps

class Trained:
    """A model in bf16 and the optimizer of its state (STATES)."""

    def __init__(self, shape, layers, state, experts, attention, device):
        with torch.device(device.name):
            self.model = transformers.OlmoeForCausalLM._from_config(
                shape.config(layers), dtype=torch.bfloat16, attn_implementation=attention,
                experts_implementation=experts).train()
            self.ids = torch.randint(0, shape.vocab, (shape.sequences, shape.length))
        self.weights = list(self.model.parameters())
        self.kept = self.weights if state == "bf16" else [self.master_of(weight) for weight in self.weights]
        self.optimizer = torch.optim.AdamW(self.kept, lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY,
                                           fused=True)

    def master_of(self, weight):
        """An fp32 master copy; its gradient replaces the weight's as soon as that is complete."""
        master = torch.nn.Parameter(weight.detach().float())

        def hand_over(weight):
            master.grad, weight.grad = weight.grad.float(), None
        weight.register_post_accumulate_grad_hook(hand_over)
        return master

    def step(self):
        out = self.model(self.ids, labels=self.ids, use_cache=False, output_router_logits=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.kept, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.kept is not self.weights:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.kept)
        return out.loss.detach()


def time_steps(shape, layers, state, experts, attention, device):
    trained = Trained(shape, layers, state, experts, attention, device)
    seconds, losses = [], []
    for _ in range(STEP_WARMUP + STEP_TIMED):
        begin = device.now()
        loss = trained.step()
        seconds.append(device.seconds(begin, device.now()))
        losses.append(loss.item())
    timed = seconds[STEP_WARMUP:]
    median_s = statistics.median(timed)
    return {"median_step_ms": median_s * 1e3, "fastest_step_ms": min(timed) * 1e3, "slowest_step_ms": max(timed) * 1e3,
            "median_tokens_per_s": shape.tokens() / median_s, "tokens_per_step": shape.tokens(),
            "parameters": sum(weight.numel() for weight in trained.weights), **device.peaks(),
            "first_loss": losses[0], "last_loss": losses[-1]}


def fastest_attention(shape, experts, device):
    """The fastest attention for steps of one layer: sdpa, or flash_attn where it is installed."""
    candidates = ["sdpa"] + ["flash_attention_2"] * transformers.utils.is_flash_attn_2_available()
    if len(candidates) == 1:
        return candidates[0]
    times = {}
    for attention in candidates:
        found, _ = attempt(lambda: time_steps(shape, 1, "bf16", experts, attention, device))
        device.release()
        times[attention] = found["median_step_ms"] if found else float("inf")
    return min(times, key=times.get)


def train_rows(shape, device, layer_counts, experts):
    attention = fastest_attention(shape, experts, device)
    for state in STATES:
        wanted, fitted, ran_out = sorted(set(layer_counts), reverse=True), 0, False
        for layers in wanted:  # grows after out of memory: two runs give the cost of a layer
            row = {"state": state, "layers": layers, "experts": experts, "attention": attention}
            device.release()
            found, why_not = attempt(lambda: time_steps(shape, layers, state, experts, attention, device))
            yield row | (found or {"cannot": why_not})
            fitted += found is not None
            ran_out |= why_not == OUT_OF_MEMORY
            if ran_out and fitted < 2 and layers == wanted[-1] and layers > 1:
                wanted.append(layers // 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["layer", "train"])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=[*SHAPES], default="published")
    parser.add_argument("--layers", type=int, nargs="+", help="of the models to train")
    parser.add_argument("--experts", choices=EXPERTS, nargs="+", help="implementations; without, layer times all")
    arguments = parser.parse_args()
    if (arguments.what == "train") != bool(arguments.layers):
        parser.error("--layers is needed by train, and by nothing else")
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(1)
    device, shape = Device(arguments.device), SHAPES[arguments.shape]
    findings = Findings(arguments.json, device, shape)
    if arguments.what == "layer":
        rows = layer_rows(shape, device, arguments.experts or EXPERTS)
    else:
        rows = train_rows(shape, device, arguments.layers, (arguments.experts or ["grouped_mm"])[0])
    for row in rows:
        findings.add(row)
    return 0 if any("experts" in row and "cannot" not in row for row in findings.rows) else 1


if __name__ == "__main__":
    sys.exit(main())

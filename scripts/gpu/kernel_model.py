#!/usr/bin/env python3
"""Prints what is predicted of single GPU kernels, by asking `olmoe-plan --kernels`, which alone has the model: one
layer's experts with each form of kernels, training steps, and published figures beside what the model says of them.

    scripts/gpu/kernel_model.py [--plan build/olmoe-plan]

All of it is predicted: no GPU has confirmed a figure. docs/roofline.md has the tables, and says how they come about.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from published_layers import FITTED_FROM_WIDTH, GROUPED_PRODUCTS, SONIC_MOE  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "olmoe-1b-7b.yaml"
DENSE = REPOSITORY / "configs" / "olmo-1b-dense.yaml"
WAYS = ("forward", "backward")
SEQUENCE, HEAD_WIDTH = 4096, 128


class Planner:
    """The program that has the model."""

    def __init__(self, program):
        self.program = Path(program)

    def ask(self, config, *overrides):
        command = [self.program, config, "--kernels", *overrides]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.program} ended with {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)[0]

    def layer(self, shape, form):
        """One layer with another shape than the published model's, in one form of kernels."""
        tokens, width, expert_width, experts, chosen = shape
        found = self.ask(CONFIG, f"model.d_model={width}", f"model.expert_width={expert_width}",
                         f"model.num_experts={experts}", f"model.top_k={chosen}",
                         f"model.num_heads={width // HEAD_WIDTH}", f"model.num_kv_heads={width // HEAD_WIDTH}",
                         f"data.sequence_length={SEQUENCE}", f"train.micro_batch_size={tokens // SEQUENCE}")
        if found["tokens"] != tokens:
            raise ValueError(f"{tokens} tokens are no sequences of {SEQUENCE}")
        return form_of(found, form)


def form_of(answer, form):
    return next(layer for layer in answer["layers"] if layer["form"] == form)


def residuals(planner):
    """[(shape, way, published, {"expected", "slow", "fast"})] of SonicMoE's layers, router included, in TFLOP/s."""
    found = []
    for shape, published in SONIC_MOE.items():
        layer = planner.layer(shape, "SonicMoE")
        found += [(shape, way, figure, layer[way]["with_router_tflop_per_s"]) for way, figure in zip(WAYS, published)]
    return found


def between(planner):
    """[(shape, way, (lower, upper), predicted)] of our unfused experts and what is published of those built like them."""
    found = []
    for shape, published in GROUPED_PRODUCTS.items():
        layer = planner.layer(shape, "unfused")
        found += [(shape, way, pair, layer[way]["with_router_tflop_per_s"]) for way, *pair in zip(WAYS, *published)]
    return found


def outside(pair, predicted):
    """How far the prediction is outside of two published figures, as a share of the nearer one; 0 between them."""
    lower, upper = pair
    expected = predicted["expected"]
    return min(0, expected / lower - 1) + max(0, expected / upper - 1)


def off_by(published, predicted):
    """How far the prediction is above what is published, as a share of it."""
    return predicted["expected"] / published - 1


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)] + \
        ["| " + " | ".join(row) + " |" for row in rows]


def span(rates, form="{:.0f}"):
    """Expected, and in brackets the slow and the fast end."""
    return f"{form} ({form} to {form})".format(rates["expected"], *sorted((rates["slow"], rates["fast"])))


def shape_cell(shape):
    return ", ".join(map(str, shape))


def layers_table(answer):
    peer = form_of(answer, "SonicMoE")
    rows = []
    for layer in answer["layers"]:
        rows.append([layer["form"], layer["state"]])
        for way in WAYS:
            rate = layer[way]["with_router_tflop_per_s"]["expected"]
            rows[-1] += [span(layer[way]["tflop_per_s"]), f"{layer[way]['seconds'] * 1e6:,.0f}",
                         f"{rate / peer[way]['with_router_tflop_per_s']['expected']:.2f}"]
    return table(["experts", "state", "forward TFLOP/s", "us", "of SonicMoE", "backward TFLOP/s", "us", "of SonicMoE"], rows)


def kernel_cell(kernel):
    rate = f" ({kernel['tflop_per_s']:.0f})" if "tflop_per_s" in kernel else ""
    return f"{kernel['seconds'] * 1e6:,.0f}{rate}"


def kernels_table(answer, forms):
    """Microseconds, and in brackets TFLOP/s, of each kernel in these forms; and what the last one waits for."""
    layers, rows = [form_of(answer, form) for form in forms], []
    for way in WAYS:
        names = dict.fromkeys(kernel["kernel"] for layer in layers for kernel in layer[way]["kernels"])
        for name in names:
            found = [next((kernel for kernel in layer[way]["kernels"] if kernel["kernel"] == name), None) for layer in layers]
            rows.append([f"{name}, {way}", *[kernel_cell(kernel) if kernel else "-" for kernel in found],
                         found[-1]["limit"] if found[-1] else "-", f"{found[-1]['memory_s'] * 1e6:,.0f}" if found[-1] else "-"])
    return table(["kernel", *forms, "waits for", "memory alone"], rows)


def steps_table(answer):
    rows = []
    for step in answer["steps"]:
        milliseconds = {"expected": step["step_s"] * 1e3, "slow": step["slow_s"] * 1e3, "fast": step["fast_s"] * 1e3}
        rows.append([step["form"], step["state"], span(milliseconds), f"{step['compute_s'] * 1e3:.0f}",
                     f"{step['exposed_s'] * 1e3:.0f}", f"{step['tokens_per_s_per_gpu']:,.0f}",
                     f"{100 * step['mfu_causal']:.1f} %", f"{100 * step['mfu_full_attention']:.1f} %"])
    return table(["step", "state", "ms", "computing", "collectives not hidden", "tokens/s per GPU", "MFU causal",
                  "MFU full"], rows)


def published_table(planner):
    rows = []
    for shape, way, published, predicted in residuals(planner):
        if way == "forward":
            kind = "fitted" if shape[2] >= FITTED_FROM_WIDTH else "held out"
            rows.append([shape_cell(shape), kind])
        rows[-1] += [f"{published}", span(predicted), f"{100 * off_by(published, predicted):+.1f} %"]
    return table(["T, d, n, E, K", "figures", "forward", "predicted", "off by", "backward", "predicted", "off by"], rows)


def between_table(planner):
    rows = []
    for shape, way, (lower, upper), predicted in between(planner):
        if way == "forward":
            rows.append([shape_cell(shape)])
        rows[-1] += [f"{lower} to {upper}", span(predicted), f"{100 * outside((lower, upper), predicted):+.1f} %"]
    return table(["T, d, n, E, K", "forward", "predicted", "outside by", "backward", "predicted", "outside by"], rows)


def built_forms(answer):
    """The forms whose kernels stand side by side: unfused, fused before and as it is, all proposals."""
    fused = [layer for layer in answer["layers"] if layer["state"] != "another program" and layer["form"] != "unfused"]
    return ["unfused", fused[0]["form"], next(layer["form"] for layer in fused if layer["state"] == "built"),
            fused[-1]["form"]]


def tables(planner):
    """The tables of docs/roofline.md, by name: lines of Markdown."""
    answer = planner.ask(CONFIG)
    return {"layers": layers_table(answer), "kernels": kernels_table(answer, built_forms(answer)),
            "steps": steps_table(answer), "dense_steps": steps_table(planner.ask(DENSE)),
            "published": published_table(planner), "unfused": between_table(planner)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", type=Path, default=REPOSITORY / "build" / "olmoe-plan")
    try:
        found = tables(Planner(parser.parse_args().plan))
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("predicted: no GPU has confirmed any of these figures")
    for name, lines in found.items():
        print("\n".join(["", f"## {name}", "", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

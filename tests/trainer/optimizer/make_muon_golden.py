#!/usr/bin/env python3
"""Writes muon_golden.safetensors: what torch.optim.Muon does to single matrices.

    tests/trainer/optimizer/make_muon_golden.py        needs torch 2.11.0 and safetensors

For each case NAME of CASES, in float64: NAME.weight.0 [R, C], NAME.grad.1 ... NAME.grad.3, and NAME.weight.1 ...
NAME.weight.3 after each step; in the metadata its shape and options. torch.optim.Muon casts what it orthogonalises to
bfloat16: that cast is taken out here, so that the rule can be compared to the last digits. `bfloat16.x` [R, C] in fp32
and `bfloat16.y` are operand and result of its Newton-Schulz iteration as it is.
"""
import json
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch.optim import Muon
from torch.optim._muon import _zeropower_via_newtonschulz

LR, STEPS = 0.02, 3
CASES = {
    "wide": ((12, 20), {"adjust_lr_fn": "original", "nesterov": True}),
    "tall": ((20, 12), {"adjust_lr_fn": "original", "nesterov": True}),
    "square": ((16, 16), {"adjust_lr_fn": "match_rms_adamw", "nesterov": True, "weight_decay": 0.0}),
    "plain": ((9, 14), {"adjust_lr_fn": "match_rms_adamw", "nesterov": False, "momentum": 0.8, "weight_decay": 0.3}),
    "iteration": ((10, 6), {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 7, "ns_coefficients": (2.0, -1.5, 0.5)}),
    "row": ((1, 8), {"adjust_lr_fn": "original"}),
}


def run_case(name, shape, options, tensors):
    weight = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    optimizer = Muon([weight], lr=LR, **options)
    tensors[f"{name}.weight.0"] = weight.detach().clone()
    for step in range(1, STEPS + 1):
        weight.grad = torch.randn(shape, dtype=torch.float64)
        tensors[f"{name}.grad.{step}"] = weight.grad.clone()
        with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor.clone()):
            optimizer.step()
        tensors[f"{name}.weight.{step}"] = weight.detach().clone()
    used = {key: optimizer.defaults[key] for key in ("momentum", "nesterov", "ns_coefficients", "ns_steps",
                                                     "weight_decay", "adjust_lr_fn")}
    return json.dumps({"lr": LR, "steps": STEPS, **used})


def main():
    torch.manual_seed(7)
    tensors = {}
    metadata = {name: run_case(name, shape, options, tensors) for name, (shape, options) in CASES.items()}
    tensors["bfloat16.x"] = torch.randn(24, 40)
    tensors["bfloat16.y"] = _zeropower_via_newtonschulz(tensors["bfloat16.x"], (3.4445, -4.7750, 2.0315), 5,
                                                        1e-7).contiguous()
    save_file(tensors, Path(__file__).parent / "muon_golden.safetensors", metadata)


if __name__ == "__main__":
    main()

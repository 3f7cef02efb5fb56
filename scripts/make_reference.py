#!/usr/bin/env python3
"""Writes golden files: a tiny random model and what Hugging Face transformers computes with it.

    scripts/make_reference.py --list
    scripts/make_reference.py --output tests/golden/top2_of_8 top2_of_8
    scripts/make_reference.py --output /tmp/mine top2_of_8 num_experts=12 seed=3

A golden folder holds `config.json` and `model.safetensors` as save_pretrained writes them, and `reference.safetensors`:
  input_ids [B,S] i64, logits [B,S,V], loss (mean cross-entropy of the next token), lb_loss, z_loss (means over layers),
  grad.<name> of loss and total_grad.<name> of loss + 0.01 lb_loss + 0.001 z_loss, by the names in model.safetensors,
  steps_loss [10], the total loss before each of ten AdamW updates on the same batch.
Everything is fp32. Needs torch 2.11.0, transformers 5.17.0 and safetensors.
"""
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module of that name.
sys.path[:] = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

LB_WEIGHT, Z_WEIGHT = 0.01, 0.001
STEPS, LR, BETAS, EPS, WEIGHT_DECAY, MAX_GRAD_NORM = 10, 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
# Two correct fp32 programs differ by about 1e-6 in a router logit: a closer decision may fall either way.
MIN_ROUTER_MARGIN = 1e-4


@dataclass(frozen=True)
class Case:
    """One golden folder. The names are transformers' own where it has one."""
    model_type: str = "olmoe"  # or another of MODEL_TYPES
    vocab_size: int = 64
    hidden_size: int = 16
    intermediate_size: int = 8
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    num_key_value_heads: int = 2
    num_experts: int = 8
    num_experts_per_tok: int = 2
    norm_topk_prob: bool = False
    clip_qkv: float | None = None
    dense_layers: int = 0  # first blocks without experts
    moe_every: int = 1  # after those the last of every so many blocks has experts, the others have none
    dense_size: int = 20  # of a block without experts
    shared_size: int = 0  # of all shared experts together
    routed_scaling_factor: float = 1.0
    layer_types: str = ""  # "FS": full attention, then a sliding window
    sliding_window: int = 0  # 0: none
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    untouched_expert: int = -1  # this expert of every layer is never chosen; -1: no such expert
    batch_size: int = 2
    sequence_length: int = 12
    seed: int = 1


PRESETS = {
    "top2_of_8": Case(),
    "top2_of_8_normalized": Case(num_hidden_layers=1, norm_topk_prob=True, seed=2),
    "top8_of_64": Case(num_experts=64, num_experts_per_tok=8, intermediate_size=4, num_hidden_layers=1, seed=3),
    "top3_of_6_gqa_clip": Case(num_experts=6, num_experts_per_tok=3, vocab_size=48, hidden_size=24,
                               num_attention_heads=6, num_key_value_heads=2, clip_qkv=0.8, rope_theta=500.0,
                               sequence_length=16, seed=9),
    "untouched_expert": Case(num_experts=4, untouched_expert=2, batch_size=3, sequence_length=8, seed=5),
    "dense_one_expert": Case(num_experts=1, num_experts_per_tok=1, intermediate_size=16, seed=6),
    "dense_llama": Case(model_type="llama", intermediate_size=16, num_attention_heads=4, rms_norm_eps=1e-6, seed=7),
    "flex_olmo": Case(model_type="flex_olmo", num_attention_heads=4, num_experts=6, rms_norm_eps=1e-6,
                      rope_theta=500000.0, seed=11),
    "qwen3_moe_tied": Case(model_type="qwen3_moe", num_attention_heads=4, num_experts=6, norm_topk_prob=True,
                           rms_norm_eps=1e-6, tie_word_embeddings=True, seed=12),
    "qwen3_moe_every_second": Case(model_type="qwen3_moe", num_attention_heads=4, num_experts=4, moe_every=2,
                                   sliding_window=5, rms_norm_eps=1e-6, seed=13),
    "qwen2_moe": Case(model_type="qwen2_moe", num_experts=6, num_hidden_layers=3, dense_layers=1, shared_size=12,
                      rms_norm_eps=1e-6, seed=14),
    "dots1": Case(model_type="dots1", num_attention_heads=4, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True,
                  dense_layers=1, shared_size=16, routed_scaling_factor=2.5, layer_types="FS", sliding_window=5,
                  rms_norm_eps=1e-6, seed=15),
}


def dense_blocks(case):
    return [layer for layer in range(case.num_hidden_layers) if layer < case.dense_layers
            or (layer + 1 - case.dense_layers) % case.moe_every != 0]


def olmoe_config(case, shared):
    return transformers.OlmoeConfig(**shared, num_experts=case.num_experts, clip_qkv=case.clip_qkv)


def flex_olmo_config(case, shared):
    return transformers.FlexOlmoConfig(**shared, num_experts=case.num_experts)


def qwen_keys(case):
    listed = case.dense_layers > 0
    return dict(intermediate_size=case.dense_size, moe_intermediate_size=case.intermediate_size,
                num_experts=case.num_experts, router_aux_loss_coef=LB_WEIGHT,
                decoder_sparse_step=1 if listed else case.moe_every,
                mlp_only_layers=dense_blocks(case) if listed else [])


def qwen3_moe_config(case, shared):
    return transformers.Qwen3MoeConfig(**shared | qwen_keys(case), use_sliding_window=case.sliding_window > 0,
                                       head_dim=case.hidden_size // case.num_attention_heads,
                                       sliding_window=case.sliding_window or None)


def qwen2_moe_config(case, shared):
    del shared["attention_bias"]
    return transformers.Qwen2MoeConfig(**shared | qwen_keys(case), qkv_bias=False, use_sliding_window=False,
                                       shared_expert_intermediate_size=case.shared_size,
                                       max_window_layers=case.num_hidden_layers)


def dots1_config(case, shared):
    kinds = {"F": "full_attention", "S": "sliding_attention"}
    return transformers.Dots1Config(
        **shared | dict(intermediate_size=case.dense_size), moe_intermediate_size=case.intermediate_size,
        n_routed_experts=case.num_experts, n_shared_experts=case.shared_size // case.intermediate_size,
        first_k_dense_replace=case.dense_layers, routed_scaling_factor=case.routed_scaling_factor,
        sliding_window=case.sliding_window or None, max_window_layers=case.num_hidden_layers,
        layer_types=[kinds[letter] for letter in case.layer_types])


MODEL_TYPES = {"olmoe": olmoe_config, "flex_olmo": flex_olmo_config, "qwen3_moe": qwen3_moe_config,
               "qwen2_moe": qwen2_moe_config, "dots1": dots1_config}


def make_config(case):
    shared = {name: getattr(case, name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings")}
    shared |= dict(max_position_embeddings=64, attention_bias=False, use_cache=False,
                   pad_token_id=None, bos_token_id=None, eos_token_id=None,
                   rope_parameters={"rope_type": "default", "rope_theta": case.rope_theta})
    if case.model_type == "llama":
        return transformers.LlamaConfig(**shared, mlp_bias=False)
    if case.model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be llama or one of {', '.join(MODEL_TYPES)}, not {case.model_type!r}")
    shared |= dict(num_experts_per_tok=case.num_experts_per_tok, norm_topk_prob=case.norm_topk_prob)
    return MODEL_TYPES[case.model_type](case, shared)


def make_model(case, generator):
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    if case.model_type != "llama":
        options["experts_implementation"] = "eager"
    model = transformers.AutoModelForCausalLM.from_config(make_config(case), **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:  # away from one, so that a forgotten factor shows
                parameter.copy_(1 + 0.3 * noise)
            elif "embed" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        for name, buffer in model.named_buffers():
            if "e_score_correction_bias" in name:  # large enough to change choices
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        if case.untouched_expert >= 0:
            repel_router(model, case.untouched_expert)
    model.routers = Routers(model)
    return model


def repel_router(model, expert):
    """Keeps channel 0 of the residual stream positive and lets the expert's gate row read nothing else, negatively."""
    model.model.embed_tokens.weight[:, 0] = 6.0
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight[0] = 1.2
        layer.mlp.gate.weight[expert] = 0.0
        layer.mlp.gate.weight[expert, 0] = -8.0


class Routers:
    """What the routers of a model's last forward gave, in the order of its layers."""

    def __init__(self, model):
        self.gates = [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]
        self.outputs = {}
        for gate in self.gates:
            gate.register_forward_hook(lambda gate, _, out: self.outputs.update({gate: out}))

    def __iter__(self):
        """(logits [T,E], ids [T,K], what ranks the experts [T,E]) of each."""
        for gate in self.gates:
            logits_TE, _, ids_TK = self.outputs[gate]
            biased = hasattr(gate, "e_score_correction_bias")
            yield logits_TE, ids_TK, logits_TE.sigmoid() + gate.e_score_correction_bias if biased else logits_TE


def auxiliary_losses(routers, case):
    """Load-balancing loss E * sum_e f_e p_e and z-loss mean(logsumexp^2) of each layer, then means over layers."""
    lb, z = [], []
    for logits_TE, ids_TK, _ in routers:
        p_TE = logits_TE.softmax(-1)
        if case.model_type == "dots1":  # sigmoid scores, as a distribution
            p_TE = logits_TE.sigmoid() / logits_TE.sigmoid().sum(-1, keepdim=True)
        n_experts = p_TE.shape[1]
        f_E = torch.bincount(ids_TK.flatten(), minlength=n_experts) / ids_TK.numel()
        lb.append(n_experts * (f_E * p_TE.mean(0)).sum())
        z.append(logits_TE.logsumexp(-1).square().mean())
    return torch.stack(lb).mean(), torch.stack(z).mean()


def check_routing(routers, case):
    for layer, (_, ids_TK, keys_TE) in enumerate(routers):
        if case.num_experts_per_tok < keys_TE.shape[1]:
            top = keys_TE.topk(case.num_experts_per_tok + 1, dim=-1)
            margin = (top.values[:, -2] - top.values[:, -1]).min().item()
            if margin < MIN_ROUTER_MARGIN:
                raise RuntimeError(f"layer {layer}: experts K and K+1 are {margin:.1e} apart; choose another seed")
            if not torch.equal(top.indices[:, :-1].sort().values, ids_TK.sort().values):
                raise RuntimeError(f"layer {layer}: other experts than those of the largest keys")
            if (ids_TK == case.untouched_expert).any():
                raise RuntimeError(f"layer {layer}: expert {case.untouched_expert} was chosen; choose another seed")


def losses(model, case, input_ids):
    """Returns (logits, cross-entropy, load-balancing loss, z-loss, total)."""
    out = model(input_ids=input_ids)
    loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    lb = z = torch.zeros(())  # what a dense model has
    if case.model_type != "llama":
        check_routing(model.routers, case)
        lb, z = auxiliary_losses(model.routers, case)
    return out.logits, loss, lb, z, loss + LB_WEIGHT * lb + Z_WEIGHT * z


def checkpoint_names(model, tensors, prefix):
    """Renames (and splits) tensors as save_pretrained would: in memory experts are fused, on disk they are not."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, state_dict=tensors)
        return {prefix + name: tensor for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


def gradients(model, loss, prefix):
    names, parameters = zip(*model.named_parameters())
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return checkpoint_names(model, dict(zip(names, grads)), prefix)


def train(model, case, input_ids):
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = losses(model, case, input_ids)[-1]
        history.append(total.detach())
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
    return torch.stack(history)


def write_golden(case, output):
    generator = torch.Generator().manual_seed(case.seed)
    model = make_model(case, generator)
    input_ids = torch.randint(case.vocab_size, (case.batch_size, case.sequence_length), generator=generator)
    logits, loss, lb, z, total = losses(model, case, input_ids)
    torch.testing.assert_close(loss, model(input_ids=input_ids, labels=input_ids).loss)
    tensors = {"input_ids": input_ids, "logits": logits, "loss": loss, "lb_loss": lb, "z_loss": z}
    tensors |= gradients(model, loss, "grad.") | gradients(model, total, "total_grad.")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors["steps_loss"] = train(model, case, input_ids)
        tensors = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        made_by = {"torch": torch.__version__, "transformers": transformers.__version__, "case": asdict(case)}
        output.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(folder) / name, output / name)
    save_file(tensors, output / "reference.safetensors", metadata={"made_by": json.dumps(made_by)})
    size_bytes = sum(path.stat().st_size for path in output.iterdir())
    print(f"{output}: loss {loss:.6f} lb {lb:.6f} z {z:.6f}, {len(tensors)} tensors, {size_bytes} bytes")


def parse_override(case, text):
    key, _, value = text.partition("=")
    known = {field.name: field.default for field in fields(Case)}
    if key not in known or not value:
        raise SystemExit(f"{text!r} is not key=value with a key of: {', '.join(known)}")
    if value in ("none", "true", "false"):
        parsed = {"none": None, "true": True, "false": False}[value]
    else:
        parsed = type(known[key] if known[key] is not None else 0.0)(value)
    return replace(case, **{key: parsed})


def main():
    parser = argparse.ArgumentParser(description="Writes golden files with Hugging Face transformers.")
    parser.add_argument("--list", action="store_true", help="print the presets and leave")
    parser.add_argument("--output", type=Path, help="folder to write (preset all: parent of one folder each)")
    parser.add_argument("preset", nargs="?", choices=[*PRESETS, "all"])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name}: {case}" for name, case in PRESETS.items()))
        return
    if arguments.preset is None or arguments.output is None:
        parser.error("name a preset and --output FOLDER")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # one order of summation, the same files every time
    chosen = PRESETS if arguments.preset == "all" else {arguments.preset: PRESETS[arguments.preset]}
    for name, case in chosen.items():
        for text in arguments.overrides:
            case = parse_override(case, text)
        write_golden(case, arguments.output / name if arguments.preset == "all" else arguments.output)


if __name__ == "__main__":
    main()

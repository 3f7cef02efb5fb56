"""Measured figures of scripts/gpu/check.py held against what `olmoe-plan --kernels` predicted: of one layer's experts and
its attention, of single kernels, and of training steps. A figure outside the predicted range refutes a line of docs/roofline.md."""
import json

FUSED_PARTS = {"cuda_experts_up": ("forward", ("up",)),
               "cuda_experts_down": ("forward", ("down",)),
               "cuda_experts_up_input_grad": ("backward", ("dx",)),
               "cuda_experts_down_backward": ("backward", ("down backward", "down gradient")),
               "cuda_experts_up_weight_grad": ("backward", ("up gradient",))}
# Instances of the template in kernels/hopper/, as the profiler names them.
FUSED_KERNELS = {"UpProjection": ("forward", "up"), "DownProjection": ("forward", "down"),
                 "DownBackward": ("backward", "down backward"), "UpInputGrad": ("backward", "dx"),
                 "WeightGrad<false>": ("backward", "down gradient"), "WeightGrad<true>": ("backward", "up gradient")}


# Forms of attention as the planner names them: arguments of bench/attention_cuda.cpp.
ATTENTION = {"flash": (0, 1), "flash in any order": (0, 0), "cudnn": (1, 1), "cudnn in any order": (1, 0)}


def kind_of(step):
    """What is special about a run, as parts of the check are named: "unfused" of one with the defaults."""
    experts = "fused" if step["feed_forward"] == "fused" else ""
    attention = "" if step["attention"] == "flash" else step["attention"].replace(" in any order", "_any_order")
    return "_".join(filter(None, (experts, attention))) or "unfused"


def answers(text):
    """What olmoe-plan said, one answer after the other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text):
        answer, end = decoder.raw_decode(text, place)
        found += answer
        place = end + len(text[end:]) - len(text[end:].lstrip())
    return found


def of_kernels(log, _):
    """{"predicted": {"product": of cuBLAS, "layers": {"fused": its layer, ...}, "attention": {"cudnn": its seconds, ...},
    "steps": {"6 fused": its step, ...}}}, of kernels that are built."""
    found = {"layers": {}, "attention": {}, "steps": {}}
    for answer in answers(log.read_text()):
        found["product"] = answer["large_product"]
        found["attention"] = {attention["form"]: attention for attention in answer["attention"]}
        for layer in answer["layers"]:
            if layer["state"] == "built":
                found["layers"]["unfused" if layer["form"] == "unfused" else "fused"] = layer
        for step in answer["steps"]:
            if step["state"] == "built":
                found["steps"][f"{answer['model_layers']} {kind_of(step)}"] = step
    if not found["steps"]:
        raise ValueError("olmoe-plan predicted nothing")
    return {"predicted": found}


def comparison(what, unit, measured, expected, slow, fast):
    return {"what": what, "unit": unit, "measured": measured, "expected": expected, "slow": slow, "fast": fast,
            "inside": min(slow, fast) <= measured <= max(slow, fast)}


def compare_rates(what, entry, predicted):
    """`entry`: of Google Benchmark, {} where there is none."""
    if "FLOP/s" in entry and predicted:
        rate = predicted["tflop_per_s"]
        yield comparison(what, "TFLOP/s", entry["FLOP/s"] / 1e12, rate["expected"], rate["slow"], rate["fast"])


def rates_of_layers(predicted, benchmarks, kind):
    fused = int(kind == "fused")
    for way in ("forward", "backward"):
        entry = benchmarks.get(f"cuda_moe_layer_{way}/fused:{fused}/T:16384/skew:0/real_time", {})
        yield from compare_rates(f"layer, {kind}, {way}", entry, predicted["layers"].get(kind, {}).get(way))


def in_ms(times):
    return [times[end] * 1e3 for end in ("seconds", "slow_s", "fast_s")]


def times_of_attention(predicted, benchmarks):
    for form, times in predicted["attention"].items():
        cudnn, in_order = ATTENTION[form]
        names = {"backward": f"cuda_attention_backward/cudnn:{cudnn}/deterministic:{in_order}/real_time"}
        if in_order:  # a forward has no other order
            names["forward"] = f"cuda_attention_forward/cudnn:{cudnn}/real_time"
        for way, name in sorted(names.items(), reverse=True):
            if "FLOP/s" in benchmarks.get(name, {}):
                yield comparison(f"attention, {form}, {way}", "ms", benchmarks[name]["real_time"], *in_ms(times[way]))


def kernel_ms(layer, way, names, end):
    return sum(kernel[end] for kernel in layer[way]["kernels"] if kernel["kernel"] in names) * 1e3


def compare_kernels(what, measured_ms, layer, way, names):
    return comparison(what, "ms", measured_ms, *[kernel_ms(layer, way, names, end) for end in ("seconds", "slow_s", "fast_s")])


def times_of_parts(predicted, benchmarks):
    for name, (way, names) in FUSED_PARTS.items():
        entry = benchmarks.get(f"{name}/fused:1/T:16384/skew:0/real_time", {})
        if "FLOP/s" in entry and "fused" in predicted["layers"]:
            yield compare_kernels(" and ".join(names), entry["real_time"], predicted["layers"]["fused"], way, names)


def times_of_profile(predicted, profile):
    """Of a step with one layer, in which each of these kernels runs once."""
    for name, launches, ms, _ in profile.get("kernels", []):
        for mark, (way, kernel) in FUSED_KERNELS.items():
            if mark in name and launches == 1 and "fused" in predicted["layers"]:
                yield compare_kernels(f"{kernel}, profiled", ms, predicted["layers"]["fused"], way, (kernel,))


def times_of_steps(predicted, results):
    for result in results:
        layers, _, kind = result["name"].removeprefix("olmoe_").partition("_layers")
        kind = "unfused" if kind in ("", "_flash") else kind.removeprefix("_")
        step = predicted["steps"].get(f"{layers} {kind}")
        if step and "median_step_ms" in result.get("figures", {}):
            yield comparison(f"step, {layers} layers, {kind}", "ms",
                             result["figures"]["median_step_ms"], *[step[end] * 1e3 for end in ("step_s", "slow_s", "fast_s")])


def table(results):
    """{"rows": [...]} of figures that were measured and predicted, none where one of both is missing."""
    figures = {result["name"]: result.get("figures", {}) for result in results}
    predicted = figures.get("kernel_prediction", {}).get("predicted", {"layers": {}, "attention": {}, "steps": {}})
    cublas = figures.get("layer_unfused", {}).get("cuda_cublas/real_time", {})
    found = list(compare_rates("one large product", cublas, predicted.get("product")))
    found += [row for kind in ("unfused", "fused") for row in rates_of_layers(predicted, figures.get(f"layer_{kind}", {}), kind)]
    found += times_of_parts(predicted, figures.get("layer_fused", {}))
    found += times_of_attention(predicted, figures.get("attention", {}))
    found += times_of_profile(predicted, figures.get("profile_fused", {}))
    return {"rows": found + list(times_of_steps(predicted, results))}

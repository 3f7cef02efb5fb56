"""Ours beside transformers, in the report of scripts/gpu/check.py: one layer's experts, and training steps."""
import re
from collections import defaultdict

PUBLISHED_LAYERS = 16
# Rows of the busiest expert over the mean: 1, about 1.1, and 3 as in the trained model's first layer on web text.
ROUTINGS = {-1: "forced", 0: "natural", 1: "skewed"}
OUR_STATE = "fp32"  # weights, gradients and moments; bf16 copies are computed with


def figures_of(results, name):
    """Figures of the part of that name, also of one that did not come to its end; {} where it left none."""
    return next((result.get("figures", {}) for result in results if result["name"] == name), {})


def gpu_of(results, name):
    """Clocks and power that a part's figures were taken at; {} where nobody looked."""
    return next((result.get("gpu", {}) for result in results if result["name"] == name), {})


def ratio(value, of):
    return value / of if value and of else None


# One layer's experts

def our_layer_rows(figures):
    """Rows of kernels_bench: cuda_moe_layer_forward/skew:0/real_time, or with a variant's name in front of the skew."""
    rows = defaultdict(dict)
    for name, entry in figures.items():
        words = name.split("/")
        match = re.fullmatch(r"(?:cuda_)?moe_layer_(?:(\w+)_)?(forward|backward)(?:_(\w+))?", words[0])
        if not match:
            continue
        options = dict(word.partition(":")[::2] for word in words[1:])
        skew = int(options.pop("skew", 0))
        variant = [word for word in (match[1], match[3]) if word]
        if "fused" in options:
            variant.append("fused" if options.pop("fused") == "1" else "unfused")
        variant += [f"{key} {value}" for key, value in options.items() if value]  # real_time has no value
        row = rows[" ".join(variant) or "unfused", skew]
        if "error_message" in entry:
            row |= {"skew": skew, "cannot": entry["error_message"]}
            continue
        row |= {"skew": skew, "busiest": entry.get("busiest"), f"{match[2]}_ms": entry["real_time"],
                f"{match[2]}_tflop_per_s": entry["FLOP/s"] / 1e12}
    return [{"who": f"ours, {variant}"} | row for (variant, _), row in rows.items()]


def layer_table(results):
    """{"cublas_tflop_per_s", "rows": [...]}: TFLOP/s of forward and backward, or why there are none (`cannot`)."""
    unfused = figures_of(results, "layer_unfused")
    their_rows = figures_of(results, "transformers_layer").get("rows", [])
    product = next((row["tflop_per_s"] for row in their_rows if "product" in row), None)
    if rate := unfused.get("cuda_cublas/real_time", {}).get("FLOP/s"):
        product = rate / 1e12
    rows = [row | gpu_of(results, name) for name in ("layer_unfused", "layer_fused")
            for row in our_layer_rows(figures_of(results, name))]
    rows += [{"who": f"transformers, {row['experts']}"} | row | gpu_of(results, "transformers_layer")
             for row in their_rows if "experts" in row]
    for row in rows:
        for way in ("forward", "backward"):
            row[f"{way}_of_cublas"] = ratio(row.get(f"{way}_tflop_per_s"), product)
    return {"cublas_tflop_per_s": product, "rows": sorted(rows, key=lambda row: row["skew"])}


def fastest_experts(rows, default):
    """The implementation with the least time for forward and backward, of what transformers_speed.py layer wrote."""
    times = {row["experts"]: row["forward_ms"] + row["backward_ms"]
             for row in rows if row.get("skew") == 0 and "forward_ms" in row}
    return min(times, key=times.get, default=default)


# The fused kernels of the experts with less to do

ABLATION = "ablation_"  # how benchmarks of bench/experts_ablation.cu begin: ablation_KERNEL/FORM/real_time
FORMS = {"as_is": "as is", "identity_tokens": "identity tokens", "empty_epilogue": "empty epilogue", "stored": "stored"}


def ablation_table(results):
    """{"rows": [...]}: of each kernel {FORM: ms}, or why there are none (`cannot`), and the share that an empty epilogue
    is predicted to take."""
    layer = figures_of(results, "kernel_prediction").get("predicted", {}).get("layers", {}).get("fused", {})
    predicted = {kernel["kernel"]: 1 - kernel["epilogue_share"] for way in ("forward", "backward")
                 for kernel in layer.get(way, {}).get("kernels", []) if "epilogue_share" in kernel}
    rows = {}
    for name, entry in figures_of(results, "ablations").items():
        kernel, form, *_ = name.removeprefix(ABLATION).split("/")
        kernel = kernel.replace("_", " ")
        row = rows.setdefault(kernel, {"kernel": kernel, "predicted": predicted.get(kernel)} | gpu_of(results, "ablations"))
        row |= {"cannot": entry["error_message"]} if "error_message" in entry else {form: entry["real_time"]}
    return {"rows": list(rows.values())}


def ablation_cells(row):
    """Milliseconds of each form, and their share of those of the kernel as it is."""
    if "cannot" in row:
        return [row["kernel"], f"cannot run: {row['cannot']}"] + ["-"] * 6
    whole = row.get("as_is")
    return [row["kernel"], cell(whole, "{:.3f}")] + [
        cell(row.get(form), "{:.3f}") + cell(ratio(row.get(form), whole), " ({:.1f} %)", 100) * (form in row)
        for form in FORMS if form != "as_is"] + [cell(row["predicted"], "{:.1f} %", 100)] + clock_cells(row)


def ablation_markdown(table):
    if "cannot" in table:
        return ["", f"The table of ablations could not be made: {table['cannot']}"]
    if not table["rows"]:
        return []
    return ["", "## Fused kernels of the experts with less to do", "",
            "Milliseconds, and in brackets the share of those as is; T 16,384, natural routing. Identity tokens: the rows that a "
            "tile gathers lie one behind the other; what is missing to 100 % is what gathering costs. Empty epilogue: nothing "
            "is made of the products; what is missing is what the epilogue costs; the last column predicts the share. Gradients "
            "as is are added.", ""] + \
        markdown_table(["kernel", *FORMS.values(), "empty epilogue, predicted", "SM MHz", "W"], [ablation_cells(row) for row in table["rows"]])


def prediction_markdown(table):
    if "cannot" in table:
        return ["", f"What was measured could not be held against the prediction: {table['cannot']}"]
    if not table["rows"]:
        return []
    cells = [[row["what"], f"{row['measured']:.4g} {row['unit']}", f"{row['expected']:.4g}",
              f"{min(row['slow'], row['fast']):.4g} to {max(row['slow'], row['fast']):.4g}",
              "yes" if row["inside"] else "**no**"] for row in table["rows"]]
    return ["", "## Measured and predicted", "", "Predicted by `olmoe-plan --kernels` before anything was measured here. What "
            "is outside its range refutes a line of docs/roofline.md.", ""] + \
        markdown_table(["what", "measured", "predicted", "range", "inside"], cells)


# Training steps

def our_runs(results):
    """Parts named olmoe_N_layers, and olmoe_N_layers_ with what is special about them."""
    for result in results:
        match = re.fullmatch(r"olmoe_(\d+)_layers(?:_(\w+))?", result["name"])
        if not match:
            continue
        row = {"who": f"ours, {match[2].replace('_', ' ')}" if match[2] else "ours", "state": OUR_STATE}
        if result["status"] == "passed":
            gpu = result.get("gpu", {})
            used_bytes = gpu["most_used_mib"] * 2**20 if "most_used_mib" in gpu else None
            yield row | result["figures"] | gpu | {"used_bytes": used_bytes}
        else:
            yield row | {"layers": int(match[1]), "cannot": result.get("reason", result["status"])}


def flops_at(runs, layers):
    """(causal, full attention) FLOPs a token: linear in the layers, known of our runs. None where they do not tell."""
    known = {run["layers"]: run["flops_per_token"] for run in runs
             if "flops_per_token" in run and not run["who"].endswith("dense")}
    if layers in known:
        return known[layers]
    if len(known) < 2:
        return None
    (few, low), (many, high) = sorted(known.items())[:2]
    return [a + (b - a) * (layers - few) / (many - few) for a, b in zip(low, high)]


def with_mfu(row, flops, peak_tflop_per_s):
    """Adds the share of the GPU's peak, with causal attention and with full attention counted."""
    if flops is None or "median_tokens_per_s" not in row:
        return row
    rates = [row["median_tokens_per_s"] * each / 1e12 for each in flops]
    row |= {"tflop_per_s_causal": rates[0], "tflop_per_s_full": rates[1]}
    return row | {"mfu_causal": ratio(rates[0], peak_tflop_per_s), "mfu_full": ratio(rates[1], peak_tflop_per_s)}


def computed(runs):
    """What runs of one contestant with few and many layers say of 16: computed, not measured; {} if unknown."""
    done = sorted((run for run in runs if "median_step_ms" in run), key=lambda run: run["layers"])
    if len(done) < 2 or done[0]["layers"] == done[-1]["layers"]:
        return {}
    few, many = done[0], done[-1]

    def at_published(key):
        """(of a layer, of the whole model)"""
        each = (many[key] - few[key]) / (many["layers"] - few["layers"])
        return each, many[key] + (PUBLISHED_LAYERS - many["layers"]) * each
    layer_ms, step_ms = at_published("median_step_ms")
    if layer_ms <= 0:  # noise: such small models are those of a rehearsal
        return {}
    row = {"who": many["who"], "state": many["state"], "layers": PUBLISHED_LAYERS,
           "from_layers": [few["layers"], many["layers"]], "layer_ms": layer_ms, "median_step_ms": step_ms,
           "median_tokens_per_s": 1e3 * many["tokens_per_step"] / step_ms}
    if few.get("peak_memory_bytes") and many.get("peak_memory_bytes"):
        row["layer_bytes"], row["peak_memory_bytes"] = at_published("peak_memory_bytes")
    return row


def step_table(results):
    """{"peak_tflop_per_s", "runs": [...], "computed_for_16_layers": [...]}"""
    peak = figures_of(results, "prediction").get("peak_tflop_per_s")
    ours = list(our_runs(results))
    theirs = [{"who": "transformers"} | row | gpu_of(results, "transformers_train") for row in figures_of(results, "transformers_train").get("rows", [])]
    contestants = defaultdict(list)
    for row in ours + theirs:
        flops = row.get("flops_per_token") or flops_at(ours, row["layers"])
        contestants[row["who"], row["state"]].append(with_mfu(row, flops, peak))
    whole = [row for runs in contestants.values() if (row := computed(runs))]
    return {"peak_tflop_per_s": peak, "runs": [row for runs in contestants.values() for row in runs],
            f"computed_for_{PUBLISHED_LAYERS}_layers":
                [with_mfu(row, flops_at(ours, PUBLISHED_LAYERS), peak) for row in whole]}


# As Markdown

def cell(value, form="{:.1f}", scale=1.0):
    return "-" if value is None else form.format(value * scale)


def markdown_table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def layer_markdown(table):
    if "cannot" in table:
        return ["", f"The table of one layer could not be made: {table['cannot']}"]
    if not table["rows"]:
        return []
    rows = []
    for row in table["rows"]:
        routing = ROUTINGS.get(row["skew"], str(row["skew"]))
        if "cannot" in row:
            rows.append([row["who"], routing, f"cannot run: {row['cannot']}"] + ["-"] * 8)
            continue
        rows.append([row["who"], routing, cell(row.get("busiest"), "{:.2f}")] +
                    [cell(row.get(f"{way}_{unit}"), form, scale) for unit, form, scale in
                     (("tflop_per_s", "{:.4g}", 1), ("of_cublas", "{:.1f} %", 100), ("ms", "{:.2f}", 1))
                     for way in ("forward", "backward")] + clock_cells(row))
    return ["", "## Experts of one layer, bf16", "", f"One large product on this machine: "
            f"{cell(table['cublas_tflop_per_s'], '{:.4g}')} TFLOP/s. FLOPs are those of the layer's products.", ""] + \
        markdown_table(["experts", "routing", "busiest / mean", "forward TFLOP/s", "backward TFLOP/s",
                        "forward of product", "backward of product", "forward ms", "backward ms", "SM MHz", "W"], rows)


def clock_cells(row):
    return [cell(row.get("median_sm_mhz"), "{:.0f}"), cell(row.get("median_power_w"), "{:.0f}")]


def step_cells(row):
    who = f"{row['who']}, {row['state']} state"
    if "cannot" in row:
        return [who, str(row["layers"]), row["cannot"]] + ["-"] * 8
    return [who, str(row["layers"]), cell(row["median_tokens_per_s"], "{:.0f}"), cell(row["median_step_ms"]),
            cell(row.get("mfu_causal"), "{:.1f} %", 100), cell(row.get("mfu_full"), "{:.1f} %", 100),
            cell(row.get("peak_memory_bytes"), "{:.1f}", 1e-9), cell(row.get("used_bytes"), "{:.1f}", 1e-9),
            cell(row.get("layer_ms"), "{:.2f}"), *clock_cells(row)]


def step_markdown(table):
    if "cannot" in table:
        return ["", f"The table of training steps could not be made: {table['cannot']}"]
    if not table["runs"]:
        return []
    whole = table[f"computed_for_{PUBLISHED_LAYERS}_layers"]
    lines = ["", "## Training steps of OLMoE-1B-7B with fewer layers", "",
             f"MFU against {cell(table['peak_tflop_per_s'])} TFLOP/s, the data sheet's dense bf16; with causal and "
             f"with full attention counted. A row of {PUBLISHED_LAYERS} layers is computed from the two others of its "
             "kind, not measured. State: what is kept between steps, fp32 as ours or all of it bf16. Memory: the peak of "
             "tensors, and of the whole GPU as nvidia-smi saw it. Clock and power: medians while the GPU was busy.", ""]
    rows = [step_cells(row) for row in table["runs"]]
    for row in whole:
        cells = step_cells(row)
        rows.append([cells[0], f"{PUBLISHED_LAYERS}, computed"] + cells[2:])
    return lines + markdown_table(["who", "layers", "tokens/s", "step ms", "MFU causal", "MFU full", "tensors GB",
                                   "GPU GB", "ms a layer", "SM MHz", "W"], rows)

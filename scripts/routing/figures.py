"""The figures of an analysis, as data: pictures.py and page.py draw them."""
from dataclasses import dataclass, field

import numpy as np

MOST_EXPERTS = 16  # of a co-activation map, as in the paper
MOST_RIBBONS = 48
SMOOTHED = 64  # points of a curve by position


@dataclass
class Figure:
    name: str
    title: str
    kind: str  # lines, bars, heat or flow
    note: str = ""
    x_label: str = ""
    y_label: str = ""
    lines: list = field(default_factory=list)  # lines: (label, x, y); bars: (label, heights)
    categories: list = field(default_factory=list)  # of bars; experts of a heat map
    level: float = None  # a horizontal line,
    level_label: str = ""  # and what it is
    matrix: np.ndarray = None  # of a heat map; of a flow


def all_figures(analysis):
    """Those whose statistics the analysis has, in the order of docs/analysis.md."""
    makers = (saturation, early_routing, load_over_training, load_over_depth, domain_bars, coactivation, flow,
              vocabulary_histograms, vocabulary_by_layer, contexts, positions, drops, similarity, super_experts)
    return [figure for maker in makers for figure in maker(analysis)]


def step_labels(analysis):
    return [f"step {step:,}" if step >= 0 else f"checkpoint {number + 1}" for number, step in enumerate(analysis.steps)]


def over_training(analysis, name, title, array, layers, label, note):
    """One line a layer over the checkpoints."""
    steps = analysis.steps if min(analysis.steps) >= 0 else list(range(1, len(analysis.steps) + 1))
    return Figure(name, title, "lines", note, "step" if min(analysis.steps) >= 0 else "checkpoint", label,
                  lines=[(f"layer {layer}", steps, array[:, column]) for column, layer in enumerate(layers)])


def saturation(analysis):
    if not analysis.has("saturation.top_k", "saturation.top_1") or len(analysis.steps) < 2:
        return
    for name, what in (("top_k", f"top-{analysis.top_k}"), ("top_1", "top-1")):
        yield over_training(analysis, f"saturation_{name}", f"Router saturation, {what}", 100 * analysis[f"saturation.{name}"],
                            range(analysis.layers), "percent as in the last checkpoint",
                            "The last checkpoint agrees with itself: 100.")


def early_routing(analysis):
    if analysis.has("early.variation") and len(analysis.steps) > 1:
        yield over_training(analysis, "early_routing", "Early routing: experts of an id against the last checkpoint's",
                            analysis["early.variation"], analysis.table_layers, "total variation, mean over ids",
                            f"Of {len(analysis['early.ids']):,} ids with at least {analysis.min_count} tokens.")


def load_over_training(analysis):
    if analysis.has("load.counts") and len(analysis.steps) > 1:
        counts = analysis["load.counts"].sum(axis=1).astype(float)
        yield over_training(analysis, "load_over_training", "Load of the busiest expert", counts.max(axis=2) / counts.mean(axis=2),
                            range(analysis.layers), "of the mean load", "1: all experts of a layer have equally many tokens.")


def load_over_depth(analysis):
    if analysis.has("load.counts"):
        counts = np.sort(analysis["load.counts"][-1].sum(axis=0), axis=1)[:, ::-1].astype(float)
        share = 100 * counts / counts.sum(axis=1, keepdims=True)
        yield Figure("load_over_depth", "Load of each layer's experts, by falling load", "heat",
                     "Percent of a layer's assignments; experts are sorted anew in each layer.", "expert, by load", "layer",
                     categories=[str(rank + 1) for rank in range(analysis.experts)], matrix=share)


def shown_layers(analysis):
    last = analysis.layers - 1
    return sorted({0, last // 2, last})


def domain_bars(analysis):
    if not analysis.has("domains.share", "domains.share_top_1"):
        return
    for name, level, what in (("share", analysis.top_k / analysis.experts, f"top-{analysis.top_k}"),
                              ("share_top_1", 1 / analysis.experts, "top-1")):
        for layer in shown_layers(analysis):
            yield Figure(f"domains_{name}_layer_{layer}", f"Domain specialization, layer {layer}, {what}", "bars",
                         "Percent of a domain's tokens that choose an expert.", "expert", "percent of tokens",
                         lines=[(domain, 100 * analysis[f"domains.{name}"][-1, number, layer])
                                for number, domain in enumerate(analysis.domains)],
                         categories=[str(expert) for expert in range(analysis.experts)], level=100 * level, level_label="uniform")


def coactivation(analysis):
    if not analysis.has("coactivation.conditional"):
        return
    for layer in shown_layers(analysis):
        given = 100 * analysis["coactivation.conditional"][layer]
        chosen = np.sort(np.argsort(-np.maximum(given, given.T).max(axis=1), kind="stable")[:MOST_EXPERTS])
        yield Figure(f"coactivation_layer_{layer}", f"Co-activation, layer {layer}", "heat",
                     f"Percent of the tokens of expert i (row) that choose expert j too; the {len(chosen)} experts with the "
                     f"largest values. At random: {100 * (analysis.top_k - 1) / max(1, analysis.experts - 1):.3g}.",
                     "expert j", "expert i", categories=[str(expert) for expert in chosen], matrix=given[np.ix_(chosen, chosen)])


def flow(analysis):
    if not analysis.has("flow.layers", "flow.pairs"):
        return
    for number, (earlier, later) in enumerate(analysis["flow.layers"]):
        if later - earlier == 1 and not (earlier in shown_layers(analysis) and later in shown_layers(analysis)):
            continue
        pairs = analysis["flow.pairs"][number].astype(float)
        yield Figure(f"flow_{earlier}_{later}", f"Flow from layer {earlier} to layer {later}", "flow",
                     f"All pairs of an expert of a token and one of the later layer; the {MOST_RIBBONS} largest are drawn. "
                     f"The height of an expert is its share of pairs.", f"layer {earlier}", f"layer {later}",
                     matrix=pairs / max(1, pairs.sum()))


def vocabulary_histograms(analysis):
    edges = np.linspace(0, 1, 21)
    middles = [f"{100 * edge:.0f}" for edge in edges[:-1]]
    for kind in ("input", "next", "predicted"):
        if not analysis.has(f"vocabulary.{kind}.counts", f"vocabulary.{kind}.top_1"):
            continue
        tokens = analysis[f"vocabulary.{kind}.top_1"].sum(axis=2)
        often = tokens[0] >= min(10, tokens[0].max(initial=1))
        share = analysis[f"vocabulary.{kind}.counts"].max(axis=2)[:, often] / np.maximum(1, tokens[:, often])
        lines = [(f"layer {layer}", 100 * np.histogram(np.minimum(share[column], 1), edges)[0] / max(1, often.sum()))
                 for column, layer in enumerate(analysis.table_layers)]
        yield Figure(f"vocabulary_{kind}", f"Vocabulary specialization by {kind} id", "bars",
                     f"{often.sum():,} ids with at least 10 tokens (with the most, where none has 10).",
                     "percent of an id's tokens that choose its most frequent expert, from", "percent of ids",
                     lines=lines, categories=middles)


def vocabulary_by_layer(analysis):
    kinds = [kind for kind in ("input", "next", "predicted") if analysis.has(f"vocabulary.{kind}.specialization")]
    if kinds:
        yield Figure("vocabulary_layers", "Vocabulary specialization over depth", "lines", "Mean over all ids that occur.",
                     "layer", "percent",
                     lines=[(f"{kind} id", analysis.table_layers, 100 * analysis[f"vocabulary.{kind}.specialization"])
                            for kind in kinds])


def contexts(analysis):
    if not analysis.has("contexts.deviation", "contexts.chance") or not len(analysis["contexts.ids"]):
        return
    order = np.argsort(-analysis["contexts.tokens"], kind="stable")
    ranks = np.arange(1, len(order) + 1)
    lines = [(f"layer {layer}", ranks, analysis["contexts.deviation"][column][order])
             for column, layer in enumerate(analysis.table_layers)]
    yield Figure("contexts_ids", "Deviation of an id's shares over experts", "lines",
                 "0: all experts alike. Ids by falling number of tokens.", "rank of the id", "standard deviation",
                 lines=[*lines, ("chance", ranks, analysis["contexts.chance"][order])])
    if analysis.has("contexts.by_previous", "contexts.at_random"):
        yield Figure("contexts_previous", "Does the id before change the experts of an id?", "bars",
                     "Total variation between two halves of an id's tokens, mean over ids.", "layer", "total variation",
                     lines=[("halves by the id before", analysis["contexts.by_previous"].mean(axis=1)),
                            ("random halves", analysis["contexts.at_random"].mean(axis=1))],
                     categories=[str(layer) for layer in analysis.table_layers])


def binned(values):
    """(positions, means) of at most SMOOTHED bins."""
    parts = np.array_split(np.arange(len(values)), min(SMOOTHED, len(values)))
    return [part.mean() for part in parts], np.array([values[part].mean() for part in parts])


def positions(analysis):
    if analysis.has("contexts.position_deviation"):
        deviation = analysis["contexts.position_deviation"]
        yield Figure("contexts_positions", "Deviation of a position's shares over experts", "lines",
                     "Means of neighbouring positions.", "position", "standard deviation",
                     lines=[(f"layer {layer}", *binned(deviation[:, layer])) for layer in shown_layers(analysis)])


def drops(analysis):
    if not analysis.has("drops.assignments", "drops.sequences"):
        return
    sequences = np.maximum(1, analysis["drops.sequences"])[:, None]
    for layer in shown_layers(analysis):
        share = 100 * analysis["drops.assignments"][:, layer] / (sequences * analysis.top_k)
        lines = [(domain, *binned(share[number])) for number, domain in enumerate(analysis.domains)]
        if analysis.has("drops.shuffled"):
            shuffled = analysis["drops.shuffled"][:, layer].sum(axis=0) / (sequences.sum() * analysis.top_k)
            lines.append(("all, in random order", *binned(100 * shuffled)))
        yield Figure(f"drops_layer_{layer}", f"Dropped assignments by position, layer {layer}", "lines",
                     f"An expert takes {analysis.capacity} assignments of a sequence, the first ones.", "position",
                     "percent of assignments", lines=lines)


def similarity(analysis):
    if analysis.has("similarity.experts"):
        for layer in sorted({0, len(analysis["similarity.experts"]) - 1}):
            matrix = analysis["similarity.experts"][layer].copy()
            np.fill_diagonal(matrix, 0)
            yield Figure(f"similarity_layer_{layer}", f"Cosine of experts' weights, layer {layer}", "heat",
                         "The diagonal, which is 1, is left out.", "expert", "expert",
                         categories=[str(expert) for expert in range(len(matrix))], matrix=matrix)


def super_experts(analysis):
    if analysis.has("super.peaks"):
        peaks = analysis["super.peaks"]
        yield Figure("super_experts", "Largest down-projection output of each expert", "heat",
                     f"Super experts are above {np.percentile(peaks, 99.5):.4g} (99.5th percentile) and {peaks.max() / 10:.4g} "
                     "(a tenth of the largest).", "expert", "layer",
                     categories=[str(expert) for expert in range(analysis.experts)], matrix=peaks)


def ribbons(matrix):
    """Of a flow: [(i, j, top of i's end, top of j's end, height)], the largest MOST_RIBBONS; all in shares of 1.

    Experts are stacked by number, and the pairs of an expert by the number of the other.
    """
    left = np.cumsum(matrix.sum(axis=1)) - matrix.sum(axis=1)
    right = np.cumsum(matrix.sum(axis=0)) - matrix.sum(axis=0)
    within_left = np.cumsum(matrix, axis=1) - matrix
    within_right = np.cumsum(matrix, axis=0) - matrix
    largest = np.argsort(-matrix, axis=None, kind="stable")[:MOST_RIBBONS]
    return [(i, j, left[i] + within_left[i, j], right[j] + within_right[i, j], matrix[i, j])
            for i, j in zip(*np.unravel_index(largest, matrix.shape)) if matrix[i, j] > 0]

// The formulas of the kernels for one element, shared by CPU and GPU: the loops of X.cpp and X.cu call these. Values
// are computed in Acc<T>; `rounded` marks where they are rounded to the compute dtype T. Sources are in X.h.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/rows/scalars.h"

namespace olmoe::kernels {

/// 1 / sqrt(mean(x^2) + eps) of a row of `width` elements.
template <typename A>
OLMOE_ELEMENT A inverse_rms(A square_sum, int64_t width, A eps) {
  return 1 / std::sqrt(square_sum / static_cast<A>(width) + eps);
}
/// Factor of x in the gradient of a normalised row, rstd^2 mean(dy * w * x); `dot` = sum(dy * w * x).
template <typename A>
OLMOE_ELEMENT A rms_projection(A dot, A rstd, int64_t width) {
  return dot * rstd * rstd / static_cast<A>(width);
}

/// x * rstd * w: element of an RMS-normalised row. Rounded where OlmoeForCausalLM rounds: after the norm, and after the
/// weight.
template <typename T>
OLMOE_ELEMENT T rms_normed(T x, Acc<T> rstd, T w) {
  return rounded<T>(load(rounded<T>(load(x) * rstd)) * load(w));
}

/// Gradients of one element of a normalised row: dx = rstd * (dy * w - x * projection), dw = dy * x * rstd;
/// `projection`: rms_projection().
template <typename T>
struct RmsNormGrads {
  Acc<T> dx, dw;
};
template <typename T>
OLMOE_ELEMENT RmsNormGrads<T> rms_norm_grads(Acc<T> dy, T x, T w, Acc<T> rstd, Acc<T> projection) {
  return {rstd * (dy * load(w) - load(x) * projection), dy * load(rounded<T>(load(x) * rstd))};
}

/// Softmax statistics of a row of logits: the maximum, and the sum of exp(logit - maximum).
template <typename A>
struct SoftmaxSum {
  A highest, sum;
};
/// log(sum of exp(logit)) of a row, in float64, as losses are summed.
template <typename A>
OLMOE_ELEMENT double log_sum_exp(SoftmaxSum<A> row) {
  return std::log(static_cast<double>(row.sum)) + row.highest;
}
/// Cross-entropy of a row, -log softmax[target] = log(sum) + maximum - logit, for the logit of its target.
template <typename A>
OLMOE_ELEMENT double token_loss(SoftmaxSum<A> row, A logit) {
  return log_sum_exp(row) - logit;
}
/// Factor of exp(logit - maximum) in the gradient of a row's logits: scale * (1 + 2 gamma logsumexp) / sum; `gamma`:
/// the weight of logsumexp^2 in the loss.
template <typename A>
OLMOE_ELEMENT A softmax_factor(SoftmaxSum<A> row, double scale, double gamma) {
  const double of_sum = gamma == 0 ? scale : scale * (1 + 2 * gamma * log_sum_exp(row));
  return static_cast<A>(of_sum / row.sum);
}

/// x clamped to +-clip.
template <typename A>
OLMOE_ELEMENT A clamped(A x, A clip) {
  const A below = x > clip ? clip : x;
  return below < -clip ? -clip : below;
}
/// Gradient of x for dy of clamped(x): zero where x was clamped.
template <typename A>
OLMOE_ELEMENT A clamp_grad(A dy, A x, A clip) {
  return std::abs(x) > clip ? 0 : dy;
}

template <typename A>
struct Pair {
  A first, second;
};
/// Rotates (a, b) by the angle of the given cosine and sine: rotary embedding of one pair. Its inverse, and its
/// gradient, with -sin.
template <typename A>
OLMOE_ELEMENT Pair<A> rotate(A a, A b, A cos, A sin) {
  return {a * cos - b * sin, b * cos + a * sin};
}

/// h = silu(gate) * up * score, where silu(g) = g * sigmoid(g).
template <typename T>
OLMOE_ELEMENT Acc<T> swiglu_value(T gate, T up, Acc<T> score) {
  const Acc<T> g = load(gate);
  return g * sigmoid(g) * load(up) * score;
}
template <typename T>
OLMOE_ELEMENT T swiglu_element(T gate, T up, Acc<T> score) {
  return rounded<T>(swiglu_value(gate, up, score));
}
template <typename A>
struct SwigluElementGrads {
  A dgate, dup, h;
  A dscore;  ///< this element's part of the sum over F
};
/// dgate = dh score up sigmoid(gate) (1 + gate (1 - sigmoid(gate))), dup = dh score silu(gate), dscore = dh silu(gate)
/// up. Not rounded: a struct of several types would prevent vectorisation.
template <typename T>
OLMOE_ELEMENT SwigluElementGrads<Acc<T>> swiglu_element_grads(Acc<T> dh, T gate, T up, Acc<T> score) {
  const Acc<T> g = load(gate), u = load(up);
  const Acc<T> s = sigmoid(g), silu = g * s;
  return {dh * score * u * (s + silu * (1 - s)), dh * score * silu, silu * u * score, dh * silu * u};
}

/// Top-k order: whether expert a is chosen before expert b, by higher probability, then by lower index.
template <typename A>
OLMOE_ELEMENT bool chosen_before(A prob_a, int32_t a, A prob_b, int32_t b) {
  return prob_a > prob_b || (prob_a == prob_b && a < b);
}

/// One token's K chosen experts, with their scores and the gradients of these; probs: of all experts.
template <typename A>
struct Choice {
  const A *dscores, *scores, *probs;
  const int32_t* ids;
  int64_t K;
};
/// The gradient of a chosen probability is (dscore - dot) / sum. With renormalisation, score = prob / sum of the chosen
/// probabilities, and dot = sum of dscore * score; without, dot = 0 and sum = 1.
template <typename A>
struct ScoreShares {
  A dot, sum;
};
template <typename A>
OLMOE_ELEMENT ScoreShares<A> score_shares(const Choice<A>& choice, bool renormalize) {
  if (!renormalize) return {0, 1};
  ScoreShares<A> out{0, 0};
  for (int64_t k = 0; k < choice.K; ++k) {
    out.sum += choice.probs[choice.ids[k]];
    out.dot += choice.dscores[k] * choice.scores[k];
  }
  return out;
}

}  // namespace olmoe::kernels

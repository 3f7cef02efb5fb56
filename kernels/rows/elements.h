// What a kernel does to one element, for CPU and GPU alike: the loops of X.cpp and of X.cu call these. Values are
// computed in Acc<T>; `rounded` says where they are rounded to the compute dtype T.
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
/// The part of a normalised row's gradient along the row: `dot` = sum(dy * w * x).
template <typename A>
OLMOE_ELEMENT A rms_projection(A dot, A rstd, int64_t width) {
  return dot * rstd * rstd / static_cast<A>(width);
}

/// Element of an RMS-normalised row, rounded as OlmoeForCausalLM rounds: after the norm, and after the weight.
template <typename T>
OLMOE_ELEMENT T rms_normed(T x, Acc<T> rstd, T w) {
  return rounded<T>(load(rounded<T>(load(x) * rstd)) * load(w));
}

/// Gradients of x and w of one element of a normalised row; `projection` is rms_projection().
template <typename T>
struct RmsNormGrads {
  Acc<T> dx, dw;
};
template <typename T>
OLMOE_ELEMENT RmsNormGrads<T> rms_norm_grads(Acc<T> dy, T x, T w, Acc<T> rstd, Acc<T> projection) {
  return {rstd * (dy * load(w) - load(x) * projection), dy * load(rounded<T>(load(x) * rstd))};
}

/// Of a row of logits: the highest, and the sum of exp(logit - highest).
template <typename A>
struct SoftmaxSum {
  A highest, sum;
};
/// -log softmax[target] of a row, by its target's logit; in float64, as losses are summed.
template <typename A>
OLMOE_ELEMENT double token_loss(SoftmaxSum<A> row, A logit) {
  return std::log(static_cast<double>(row.sum)) + row.highest - logit;
}

/// x within +-clip.
template <typename A>
OLMOE_ELEMENT A clamped(A x, A clip) {
  const A below = x > clip ? clip : x;
  return below < -clip ? -clip : below;
}
/// Gradient of x where that of clamped(x) is dy: zero where the clamp held.
template <typename A>
OLMOE_ELEMENT A clamp_grad(A dy, A x, A clip) {
  return std::abs(x) > clip ? 0 : dy;
}

template <typename A>
struct Pair {
  A first, second;
};
/// Rotates (a, b) by the angle whose cosine and sine are given; back with -sin.
template <typename A>
OLMOE_ELEMENT Pair<A> rotate(A a, A b, A cos, A sin) {
  return {a * cos - b * sin, b * cos + a * sin};
}

/// h = silu(gate) * up * score, and what its backward needs of one element.
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
/// Not rounded: a struct of several types would keep a loop from being vectorised.
template <typename T>
OLMOE_ELEMENT SwigluElementGrads<Acc<T>> swiglu_element_grads(Acc<T> dh, T gate, T up, Acc<T> score) {
  const Acc<T> g = load(gate), u = load(up);
  const Acc<T> s = sigmoid(g), silu = g * s;
  return {dh * score * u * (s + silu * (1 - s)), dh * score * silu, silu * u * score, dh * silu * u};
}

/// Whether expert a is chosen before expert b: the more probable, among equals the lower index.
template <typename A>
OLMOE_ELEMENT bool chosen_before(A prob_a, int32_t a, A prob_b, int32_t b) {
  return prob_a > prob_b || (prob_a == prob_b && a < b);
}

/// One token's K choices among its experts' probabilities, and the gradients of their scores.
template <typename A>
struct Choice {
  const A *dscores, *scores, *probs;
  const int32_t* ids;
  int64_t K;
};
/// A chosen probability's gradient is (dscore - dot) / sum: through the renormalisation where there is one.
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

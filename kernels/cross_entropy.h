// Shapes: N tokens, D width, V vocabulary rows (padding rows included: they take part in the softmax).
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "core/targets.h"

namespace olmoe::kernels {

/// Softmax cross-entropy -log softmax(x w^T)[target] of each token, float64 [N]; zero for a target of kIgnoredTarget.
/// targets_N: int64. Logits exist for `chunk` tokens at a time, in the dtype of x; softmax statistics are in at least
/// fp32. Throws Error where shapes or devices do not match, and on a CPU for targets outside of the vocabulary.
/// Source: fused linear cross-entropy, as in Liger Kernel (arXiv 2410.10989).
at::Tensor token_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                               int64_t chunk);
/// The sum of token_cross_entropy(), a float64 scalar tensor.
at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk);
/// What the gradient of a loss starts from. `value`: a float64 scalar, the gradient of the sum; may be undefined where
/// no gradient is made. `z_weight`: gamma of cross-entropy + gamma * logsumexp(logits)^2, of which gradients are made.
struct LossSeed {
  LossSeed(at::Tensor seed, double gamma = 0) : value(std::move(seed)), z_weight(gamma) {}
  at::Tensor value;
  double z_weight;
};
/// The same sum with gradients, scaled by the seed: returns dx_ND, and adds the weight's gradient to dw_VD (at least
/// fp32). Logits are computed once; their gradient, seed * (softmax * (1 + 2 gamma logsumexp) - one-hot target),
/// overwrites them.
struct LossAndGrad {
  at::Tensor loss, dx_ND;
  at::Tensor z;  ///< the sum of logsumexp^2, a float64 scalar; undefined with gamma 0
};
LossAndGrad linear_cross_entropy_with_grads(const LossSeed& seed, const at::Tensor& x_ND, const at::Tensor& w_VD,
                                            const at::Tensor& targets_N, int64_t chunk, at::Tensor dw_VD);

}  // namespace olmoe::kernels

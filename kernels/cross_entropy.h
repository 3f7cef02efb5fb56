// Shapes: N tokens, D width, V vocabulary rows (padding rows included: they take part in the softmax).
#pragma once
#include <ATen/core/Tensor.h>

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
/// The same sum with its gradients, scaled by `seed`, a float64 scalar (the gradient of the sum): returns dx_ND, and
/// adds the weight's gradient to dw_VD (at least fp32). Logits are computed once; their gradient, seed *
/// (softmax - one-hot target), overwrites them.
struct LossAndGrad {
  at::Tensor loss, dx_ND;
};
LossAndGrad linear_cross_entropy_with_grads(const at::Tensor& seed, const at::Tensor& x_ND, const at::Tensor& w_VD,
                                            const at::Tensor& targets_N, int64_t chunk, at::Tensor dw_VD);

}  // namespace olmoe::kernels

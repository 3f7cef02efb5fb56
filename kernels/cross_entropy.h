// Shapes: N tokens, D width, V vocabulary rows (padding rows included: they take part in the softmax).
#pragma once
#include <ATen/core/Tensor.h>

#include "core/targets.h"

namespace olmoe::kernels {

/// -log softmax(x w^T)[target] of each token, float64 [N]; zero for a target of kIgnoredTarget. Logits are made `chunk`
/// tokens at a time and never all held; statistics in at least fp32.
at::Tensor token_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                               int64_t chunk);
/// The sum of token_cross_entropy(), as a scalar tensor.
at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk);
/// The same sum, with its gradients for a seed of d(sum) = `seed`, a float64 scalar: dx_ND, and that of the weight,
/// which is added to dw_VD (at least fp32). A chunk of logits is made once, and its gradient takes its place.
struct LossAndGrad {
  at::Tensor loss, dx_ND;
};
LossAndGrad linear_cross_entropy_with_grads(const at::Tensor& seed, const at::Tensor& x_ND, const at::Tensor& w_VD,
                                            const at::Tensor& targets_N, int64_t chunk, at::Tensor dw_VD);

}  // namespace olmoe::kernels

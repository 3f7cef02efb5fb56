// Shapes: N tokens, D width, V vocabulary rows (padding rows included: they take part in the softmax).
#pragma once
#include <ATen/core/Tensor.h>

#include "core/targets.h"

namespace olmoe::kernels {

/// Sum over targets of -log softmax(x w^T)[target], in float64, as a scalar tensor; targets of kIgnoredTarget
/// count zero. Logits are made `chunk` tokens at a time and never all held; statistics in at least fp32.
at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk);
/// Gradients for a seed of d(sum) = `scale`, a float64 scalar: returns dx_ND, adds to dw_VD (at least fp32). Recomputes
/// the logits.
at::Tensor linear_cross_entropy_backward(const at::Tensor& scale, const at::Tensor& x_ND, const at::Tensor& w_VD,
                                         const at::Tensor& targets_N, int64_t chunk, at::Tensor dw_VD);

}  // namespace olmoe::kernels

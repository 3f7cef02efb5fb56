// Shapes: N tokens, W width of the attended values.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe {

/// y_NW * sigmoid(z_NW), of equal dtypes; computed in at least fp32 and rounded once. Differentiable.
/// Source: Qiu et al., Gated Attention, arXiv 2505.06708.
at::Tensor output_gate(const at::Tensor& y_NW, const at::Tensor& z_NW);

}  // namespace olmoe

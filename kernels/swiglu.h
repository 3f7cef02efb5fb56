// Shapes: R rows (of tokens or of assignments), F hidden width; z_R2F holds gate (first F columns) and up (last F).
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// h = silu(gate) * up * score, in the dtype of z, rounded once. `score_R` (fp32, float64 for float64 z) may be
/// undefined (1). Throws Error where shapes, dtypes or devices do not match. Source: Shazeer, GLU Variants Improve
/// Transformer, arXiv 2002.05202.
at::Tensor swiglu(const at::Tensor& z_R2F, const at::Tensor& score_R);

struct SwigluGrads {
  at::Tensor dz_R2F;
  at::Tensor h_RF;      ///< h recomputed, score included: the operand of the down projection's weight gradient
  at::Tensor dscore_R;  ///< sum over F of dh * silu(gate) * up; undefined without a score
};
/// One pass over z and dh.
SwigluGrads swiglu_backward(const at::Tensor& dh_RF, const at::Tensor& z_R2F, const at::Tensor& score_R);

}  // namespace olmoe::kernels

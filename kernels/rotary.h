// Shapes: N tokens (= B*S), S sequence length, H heads of width d, W = H*d the projected width.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace olmoe::kernels {

/// cos and sin of the rotary position embedding: [S, d] = cos [S, d/2] | sin [S, d/2] of the angles s * theta^(-2j/d),
/// in at least fp32. Column j of a head is rotated with column j + d/2 (Hugging Face's rotate_half), not with j + 1.
/// Source: Su et al., RoFormer, arXiv 2104.09864.
at::Tensor rotary_table(int64_t sequence_length, int64_t head_dim, double theta, at::ScalarType dtype);

struct NormRotaryOperands {
  at::Tensor x_NW;             ///< rows may be strided (a column range of the fused qkv projection)
  at::Tensor w_W;              ///< weight of the norm, contiguous, dtype of x; undefined: no norm
  at::Tensor table_Sd;         ///< of rotary_table()
  std::optional<double> clip;  ///< positive; none: no clamp
};
struct NormRotary {
  at::Tensor y_NW;    ///< contiguous, dtype of x
  at::Tensor rstd_N;  ///< as in rms_norm.h; undefined without a norm
};
/// QK-norm (RMSNorm over the full width W, as OLMoE has it), then clamp to +-clip, then rotary embedding with position
/// n mod S, in one pass. Rounded to x's dtype where OlmoeForCausalLM rounds: after normalising, after the weight, after
/// rotary. Throws Error where shapes, dtypes or devices do not match.
/// Source: QK-norm: Dehghani et al., arXiv 2302.05442; clamp: MPT's clip_qkv, as in OlmoeConfig.
NormRotary norm_rotary(const NormRotaryOperands& in, double eps);
/// Overwrites dx_NW (rows may be strided; it may alias dy_NW) and, where there is a norm, adds to dw_W (at least fp32).
void norm_rotary_backward(const at::Tensor& dy_NW, const NormRotaryOperands& in, const at::Tensor& rstd_N,
                          at::Tensor dx_NW, at::Tensor dw_W);

}  // namespace olmoe::kernels

// Shapes: N tokens (= B*S), S sequence length, H heads of width d, W = H*d the projected width.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace olmoe::kernels {

/// Angles of the half-split rotary embedding: [S, d] = cos [S, d/2] | sin [S, d/2], in at least fp32.
at::Tensor rotary_table(int64_t sequence_length, int64_t head_dim, double theta, at::ScalarType dtype);

struct NormRotaryOperands {
  at::Tensor x_NW;      ///< rows may be strided (a column range of the fused qkv projection)
  at::Tensor w_W;       ///< undefined: no norm
  at::Tensor table_Sd;  ///< of rotary_table()
  std::optional<double> clip;
};
struct NormRotary {
  at::Tensor y_NW;    ///< contiguous, dtype of x
  at::Tensor rstd_N;  ///< undefined without a norm
};
/// QK-norm over the full width W, then clamp to +-clip, then rotary with position n mod S, in one
/// pass. Rounded to x's dtype where OlmoeForCausalLM rounds (after normalising, after the weight,
/// after rotary).
NormRotary norm_rotary(const NormRotaryOperands& in, double eps);
/// Writes dx_NW (rows may be strided; it may be dy_NW itself) and adds to dw_W where there is a norm.
void norm_rotary_backward(const at::Tensor& dy_NW, const NormRotaryOperands& in, const at::Tensor& rstd_N,
                          at::Tensor dx_NW, at::Tensor dw_W);

}  // namespace olmoe::kernels

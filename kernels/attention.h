// Shapes: B sequences, S positions, H query heads, G key/value heads (G divides H), d head width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct Attention {
  at::Tensor y_BSHd;   ///< contiguous in this order, so it reads as [B*S, H*d]
  at::Tensor lse_BHS;  ///< log-sum-exp of the scores, for the backward
};
/// Causal softmax(q k^T / sqrt(d)) v; query head h reads key/value head h / (H/G). Inputs may be strided views.
Attention causal_attention(const at::Tensor& q_BSHd, const at::Tensor& k_BSGd, const at::Tensor& v_BSGd);

struct AttentionGrads {
  at::Tensor dq_BSHd, dk_BSGd, dv_BSGd;
};
AttentionGrads causal_attention_backward(const at::Tensor& dy_BSHd, const at::Tensor& q_BSHd,
                                         const at::Tensor& k_BSGd, const at::Tensor& v_BSGd,
                                         const Attention& forward);

}  // namespace olmoe::kernels

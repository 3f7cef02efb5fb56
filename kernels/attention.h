// Shapes: B sequences, S positions, H query heads, G key/value heads (G divides H), d head width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// Operands, or their gradients. May be strided views; the rows of gradients must be dense.
struct Qkv {
  at::Tensor q_BSHd, k_BSGd, v_BSGd;
};
struct Attention {
  at::Tensor y_BSHd;   ///< contiguous in this order, so it reads as [B*S, H*d]
  at::Tensor lse_BHS;  ///< log-sum-exp of the scaled scores in at least fp32, for the backward
};
/// Causal softmax(q k^T / sqrt(d)) v; query head h reads key/value head h / (H/G). Scores are never
/// in memory whole. Source: FlashAttention-2 (arXiv 2307.08691), without its blocks of keys.
Attention causal_attention(const Qkv& in);
/// Writes all of `grads`, which may be column ranges of one fused gradient.
void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const Attention& forward,
                               const Qkv& grads);

}  // namespace olmoe::kernels

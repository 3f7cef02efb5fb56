// Shapes: N tokens; H query heads and G key heads of width d; C = (H + 2G) d.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace olmoe {

/// What qk_norm() normalises together, in columns of a row of the fused projection.
struct QkWidths {
  int64_t queries, keys;           ///< H d and G d
  int64_t query_group, key_group;  ///< d for a norm of each head, or all columns: H d and G d
};
/// Weights that broadcast to [H, d] and [G, d]: of each head [H, d], of all heads [d]; undefined: none.
struct QkWeights {
  at::Tensor queries, keys;
};
/// RMSNorm of the queries and of the keys in qkv_NC, a row of which is q | k | v; values are copied. Differentiable.
/// The norm over all columns with a weight is none of it: kernels::norm_rotary() has that in one pass.
/// Source: Dehghani et al., arXiv 2302.05442; of each head: Qwen3 and OLMo 3 (weights that heads share).
at::Tensor qk_norm(const at::Tensor& qkv_NC, const QkWeights& weights, const QkWidths& widths, double eps);

}  // namespace olmoe

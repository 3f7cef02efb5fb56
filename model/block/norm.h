// Norms that kernels/ has no kernel of: LayerNorm, norms without a weight, and norms of the heads of a row. Composed of
// ATen's operators, for every device. Shapes: x [..., W], normalised along W.
#pragma once
#include <ATen/core/Tensor.h>

#include "model/block/block_variants.h"

namespace olmoe {

struct NormMethod {
  NormKind kind = NormKind::rms;
  double eps = 1e-5;
};
/// In the dtype of x, of shapes that broadcast to x; undefined: none.
struct NormWeights {
  at::Tensor weight, bias;
};
/// Statistics [..., 1] in at least fp32.
struct NormStatistics {
  at::Tensor mean;  ///< undefined for RMSNorm
  at::Tensor rstd;
};
struct Normalized {
  at::Tensor y;  ///< dtype of x
  NormStatistics statistics;
};

/// rms:   y = x / sqrt(mean(x^2) + eps) * weight
/// layer: y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias
/// Computed in at least fp32 and rounded once.
/// Source: Zhang and Sennrich, arXiv 1910.07467; Ba et al., arXiv 1607.06450.
Normalized normalize(const at::Tensor& x, const NormWeights& weights, NormMethod method);
/// Returns dx in the dtype of x; adds the gradients of the weights to weight_grad() of them.
at::Tensor normalize_backward(const at::Tensor& dy, const at::Tensor& x, const NormStatistics& statistics,
                              const NormWeights& weights);
/// normalize().y as a differentiable function of x.
at::Tensor norm(const at::Tensor& x, const NormWeights& weights, NormMethod method);

}  // namespace olmoe

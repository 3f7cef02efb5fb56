// Differentiable layers over kernels/. Shapes: N tokens, I inputs, O outputs, D model width, V vocabulary, F hidden
// width. Activations and weights have the compute dtype: bfloat16, float32 or float64. A backward *adds* weight
// gradients to weight.grad() (fp32 or float64, bound by the sharded unit) and returns none to the autograd engine: they
// are not rounded to the compute dtype, and need no temporary. It throws Error for a weight without such a buffer.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "model/stage.h"

namespace olmoe {

/// The gradient buffer of a weight, of the same shape. Throws Error if none was bound.
at::Tensor weight_grad(const at::Tensor& weight);

/// Rows of w_VD: [N, D] in its dtype. ids_N: int64 below V.
at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD);

/// The output of a norm as it is saved for a backward: itself, or the input of the norm, to be recomputed from. Rows
/// that no norm made are saved themselves.
struct SavedNorm {
  at::Tensor x_ND;    ///< the output, or the input of the norm; detached, shares its memory
  at::Tensor norm_D;  ///< the weight of the norm; undefined if the output itself is saved
  double eps = 0;
  /// The output [N, D], with the same bits as in the forward.
  at::Tensor recompute() const;
};
/// The output of a norm, and what a layer that reads it saves for its backward.
struct Normed {
  at::Tensor y_ND;
  SavedNorm saved;
};
/// y_ND = x_ND / sqrt(mean(x_ND^2) + eps) * w_D, over each row.
/// Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
Normed rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps, SavePolicy save_policy);
/// A residual sum and its norm.
struct NormedSum {
  at::Tensor sum_ND;
  Normed norm;
};
/// x_ND + residual_ND and its norm. The sum is written to the memory of x_ND.
NormedSum add_rms_norm(const at::Tensor& x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps,
                       SavePolicy save_policy);

/// y_NO = x_NI w_OI^T. The second form saves what `x` says instead of x_NI.
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& w_OI);
at::Tensor linear(const Normed& x, const at::Tensor& w_OI);
/// y_NO = gate_N * (silu(gate) * up) w_OF^T + residual_NO, with z_N2F = gate | up. Saved are z_N2F and gate_N, which is
/// fp32 (float64 for float64 rows), 1 if not given.
at::Tensor swiglu_linear(const at::Tensor& z_N2F, const at::Tensor& w_OF, const at::Tensor& residual_NO,
                         const std::optional<at::Tensor>& gate_N = {});
/// Sum of -log softmax(x w^T)[target] over the targets other than kIgnoredTarget, a float64 scalar. Logits exist for
/// `chunk` tokens at a time. The forward also computes the gradients for the incoming gradient `seed`, a float64
/// scalar: backward() must be given that tensor, and throws Error for another. Without a seed there is no gradient.
at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk, const at::Tensor& seed);

}  // namespace olmoe

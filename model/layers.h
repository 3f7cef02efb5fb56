// Autograd-aware layers over kernels/. Shapes: N tokens, I inputs, O outputs, D width, V vocabulary, F hidden width.
// Weight gradients are *added* to weight.grad() (fp32 or float64, set by the sharded unit) inside backward, and the
// engine is handed none: nothing is rounded to the compute dtype on the way, and no temporary is made.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "model/stage.h"

namespace olmoe {

/// The gradient buffer of a weight. Throws Error when none was bound.
at::Tensor weight_grad(const at::Tensor& weight);

at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD);

/// Rows that a Function's backward needs again: kept themselves, or as what a norm makes them from once more.
struct KeptRows {
  at::Tensor x_ND;    ///< the rows, or the norm's input; shares memory with them, has no graph
  at::Tensor norm_D;  ///< the norm's weight; undefined where the rows themselves are kept
  double eps = 0;
  at::Tensor again() const;
};
/// The output of a norm, and what those who compute with it keep for their backward.
struct Normed {
  at::Tensor y_ND;
  KeptRows kept;
};
Normed rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps, Keep keep);
/// A sum of which a norm goes on beside itself.
struct NormedSum {
  at::Tensor sum_ND;
  Normed norm;
};
/// The sum is made in the memory of x.
NormedSum add_rms_norm(const at::Tensor& x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps,
                       Keep keep);

/// y_NO = x_NI w_OI^T.
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& w_OI);
at::Tensor linear(const Normed& x, const at::Tensor& w_OI);
/// y_NO = (silu(gate) * up) w_OF^T + residual_NO, of z_N2F = gate | up, which alone is kept.
at::Tensor swiglu_linear(const at::Tensor& z_N2F, const at::Tensor& w_OF, const at::Tensor& residual_NO);
/// Sum of -log softmax(x w^T)[target] over targets that count, a float64 scalar; `chunk` tokens of logits at a time.
/// The gradients for `seed`, a float64 scalar, are made here too, while the logits exist: backward() must be given that
/// very tensor. Undefined: no gradient, and no backward.
at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk, const at::Tensor& seed);

}  // namespace olmoe

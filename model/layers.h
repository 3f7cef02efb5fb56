// Differentiable layers over kernels/. Shapes: N tokens, I inputs, O outputs, D model width, V vocabulary, F hidden
// width. Activations and weights have the compute dtype: bfloat16, float32 or float64. A backward *adds* weight
// gradients to weight.grad() (fp32 or float64, bound by the sharded unit) and returns none to the autograd engine: they
// are not rounded to the compute dtype, and need no temporary. It throws Error for a weight without such a buffer.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "kernels/cross_entropy.h"
#include "model/block/norm.h"
#include "model/block/weight_grad.h"
#include "model/stage.h"

namespace olmoe {

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

/// A norm of rows of d_model values by model.norm and model.norm_affine. RMSNorm with a weight has the kernels above;
/// the others are composed (model/block/norm.h), and their outputs are saved with SavePolicy::selective too.
class Norm {
 public:
  /// `name`: of its parameters, without ".weight" and ".bias".
  Norm(const ModelConfig& config, std::string name) : config_(config), name_(std::move(name)) {}
  StageState state();
  Normed forward(const at::Tensor& x_ND, SavePolicy save_policy) const;
  /// x_ND + residual_ND and its norm. The sum is written to the memory of x_ND.
  NormedSum add(const at::Tensor& x_ND, const at::Tensor& residual_ND, SavePolicy save_policy) const;
  /// One forward and backward of all tokens, where the normed rows are multiplied by so many weights.
  Work work(const CostContext& context, int uses) const;
  /// Saved for the backward beside the input: statistics, and the normed rows unless they are recomputed.
  int64_t saved_bytes(const CostContext& context) const;
  int64_t statistics_bytes(const CostContext& context) const;
  /// What its backward allocates: the gradient of its input, and where it is composed wider rows.
  int64_t backward_bytes(const CostContext& context) const;
  bool is_composed() const { return !config_.has_norm_kernel(); }

 private:
  NormMethod method() const { return {config_.norm, config_.norm_eps}; }

  const ModelConfig& config_;
  std::string name_;
  at::Tensor weight_D_, bias_D_;
};
/// Rows that no norm made, as what a layer saves of them.
Normed unnormed(const at::Tensor& x_ND);

/// y_NO = x_NI w_OI^T. The second form saves what `x` says instead of x_NI.
at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& w_OI);
at::Tensor linear(const Normed& x, const at::Tensor& w_OI);
/// y_NO = gate_N * (silu(gate) * up) w_OF^T + residual_NO, with z_N2F = gate | up. Saved are z_N2F and gate_N, which is
/// fp32 (float64 for float64 rows), 1 if not given.
at::Tensor swiglu_linear(const at::Tensor& z_N2F, const at::Tensor& w_OF, const at::Tensor& residual_NO,
                         const std::optional<at::Tensor>& gate_N = {});
/// Sums over the targets other than kIgnoredTarget, float64 scalars.
struct LossSums {
  at::Tensor cross_entropy;  ///< -log softmax(x w^T)[target]
  at::Tensor z;              ///< logsumexp(x w^T)^2, without a graph; undefined where its weight is 0
};
/// Logits exist for `chunk` tokens at a time. The forward also computes the gradients of cross_entropy + seed.z_weight
/// * z for the incoming gradient seed.value, a float64 scalar: backward() of cross_entropy must be given that tensor,
/// and throws Error for another. Without a value there is no gradient.
LossSums linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                              int64_t chunk, const kernels::LossSeed& seed);

}  // namespace olmoe

// Shapes: M tokens, K experts per token, R routed rows sorted by expert, E experts, e of them on this rank, D width
// of rows: that of the model, or model.latent_dim; F expert width.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels/experts.h"
#include "kernels/permute.h"
#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

/// The SwiGLU experts of a block that are on this rank, as grouped GEMMs over stacked weights:
///   y_m = residual_m (if given) + sum over the chosen experts i of score_i * down_i(silu(gate_i x_m) * up_i x_m).
/// The score is multiplied in at the activation, so that no expert output is saved for the backward: only x, the
/// pre-activation z_R2F, the scores and the row order. Source: SonicMoE, Megatron-Core 0.13.
class Experts {
 public:
  /// Experts of hidden width F = `hidden`. Ranks of `group` hold equal numbers of them, in rank order.
  Experts(const ModelConfig& config, std::string prefix, int64_t hidden, const Communicator& group,
          kernels::ExpertKernels kernels);
  StageState state();
  /// y_MD in the dtype of x. `rows`: the assignments of the M tokens to the experts of this rank.
  at::Tensor forward(const Normed& x, const at::Tensor& scores_MK, const kernels::Permutation& rows,
                     const std::optional<at::Tensor>& residual_MD = {});
  /// Float64 [E]: the largest magnitude in the outputs of each expert of this rank, without scores and without a graph;
  /// 0 of one that has no row, and of those of other ranks. Makes a host sync.
  at::Tensor output_peaks(const at::Tensor& x_MD, const kernels::Permutation& rows) const;
  StageCost cost(const CostContext& context) const;

 private:
  const ModelConfig& config_;
  std::string prefix_;
  int64_t hidden_;
  kernels::ExpertKernels kernels_;
  int64_t first_, count_;    // this rank's experts: [first, first + count)
  at::Tensor gate_up_e2FD_;  // rows of an expert: F of the gate, then F of up
  at::Tensor down_eDF_;
  bool store_gate_up_ = false, store_down_ = false;  // their next gradient is the first: stored, not added
};

}  // namespace olmoe

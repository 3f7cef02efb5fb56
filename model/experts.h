// Shapes: M tokens, K experts a token, R routed rows sorted by expert, E experts, e of them here, D model width, F
// expert width.
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

/// The SwiGLU experts of a block that are on this rank, as stacked weights over contiguous rows:
///   y_m = residual_m (where given) + sum over the chosen e of score * down_e(silu(gate_e x_m) * up_e x_m).
/// The score is folded in at the activation, so nothing expanded is kept: the graph holds x, the pre-activation
/// z_R2F, the scores and the row order (reference: SonicMoE, Megatron-Core 0.13).
class Experts {
 public:
  /// Ranks of `group` hold equal numbers of experts, in rank order.
  Experts(const ModelConfig& config, std::string prefix, const Communicator& group, kernels::ExpertKernels kernels);
  std::vector<Param> params();
  /// `rows` are assignments of the M tokens to the experts here.
  at::Tensor forward(const Normed& x, const at::Tensor& scores_MK, const kernels::Permutation& rows,
                     const std::optional<at::Tensor>& residual_MD = {});

 private:
  const ModelConfig& config_;
  std::string prefix_;
  kernels::ExpertKernels kernels_;
  int64_t first_, count_;    // experts [first, first + count) are here
  at::Tensor gate_up_e2FD_;  // rows of an expert: F of the gate, then F of up
  at::Tensor down_eDF_;
  bool store_gate_up_ = false, store_down_ = false;  // their next gradients, which nothing is there to be added to
};

}  // namespace olmoe

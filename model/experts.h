// Shapes: N tokens, K experts a token, R = N*K routed rows sorted by expert, E experts, D model width, F expert width.
#pragma once
#include <ATen/core/Tensor.h>

#include "kernels/experts.h"
#include "model/config.h"
#include "model/stage.h"

namespace olmoe {

/// The SwiGLU experts of a block, as stacked weights over contiguous rows:
///   y_n = residual_n + sum over the chosen e of score * down_e(silu(gate_e x_n) * up_e x_n).
/// The score is folded in at the activation, so nothing expanded is kept: the graph holds x, the pre-activation
/// z_R2F, the scores and the row order (reference: SonicMoE, Megatron-Core 0.13).
class Experts {
 public:
  Experts(const ModelConfig& config, std::string prefix, kernels::ExpertKernels kernels);
  std::vector<Param> params();
  at::Tensor forward(const at::Tensor& x_ND, const at::Tensor& scores_NK, const at::Tensor& ids_NK,
                     const at::Tensor& residual_ND);

 private:
  const ModelConfig& config_;
  std::string prefix_;
  kernels::ExpertKernels kernels_;
  at::Tensor gate_up_E2FD_;  // rows of an expert: F of the gate, then F of up
  at::Tensor down_EDF_;
};

}  // namespace olmoe

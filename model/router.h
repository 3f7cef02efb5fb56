// Shapes: N tokens, D width, E experts, K chosen for each token, G groups of N/G consecutive tokens.
#pragma once
#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

struct RouterOut {
  at::Tensor scores_NK;  ///< at least fp32, differentiable
  at::Tensor aux;        ///< (alpha * load-balancing loss + beta * z-loss) / num_layers, a differentiable scalar
  at::Tensor stats;      ///< float64 [2 + E]; see StageOut
};

/// Dropless token-choice routing: softmax over all experts, then the K largest, ties to the lower index.
///   load balancing = mean over groups of E * sum_e f_e * p_e,  f_e the share of the group's N/G*K assignments,
///                    p_e the mean probability; the group is the micro-batch or each sequence
///   z-loss         = mean over tokens of logsumexp(logits)^2
/// Source: arXiv 2409.02060 section 2; Shazeer et al. 2017; ST-MoE (arXiv 2202.08906).
class Router {
 public:
  Router(const ModelConfig& config, std::string prefix);
  std::vector<Param> params();
  /// Chooses experts, or follows `routing` where it is already written (recompute never routes again).
  RouterOut forward(const Normed& x, int64_t sequences, Routing& routing, Keep keep);

 private:
  const ModelConfig& config_;
  std::string prefix_;
  at::Tensor w_ED_;
};

}  // namespace olmoe

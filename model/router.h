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
  StageStats stats;      ///< none dropped
};

/// Token-choice routing: softmax over all experts, then the K largest, ties to the lower index.
///   load balancing = mean over groups of E * sum_e f_e * p_e,  f_e the share of the group's N/G*K assignments,
///                    p_e the mean probability; the group is the micro-batch or each sequence. Global: f_e is the share
///                    of one round's assignments on all ranks, so that the ranks' losses, each weighted by its tokens,
///                    add up to that of the whole round
///   z-loss         = mean over tokens of logsumexp(logits)^2
/// Source: arXiv 2409.02060 section 2; Shazeer et al. 2017; ST-MoE (arXiv 2202.08906).
class Router {
 public:
  /// `data` are the ranks that a global balance counts over.
  Router(const ModelConfig& config, std::string prefix, Communicator& data);
  std::vector<Param> params();
  /// Chooses experts, or follows the context's routing where it is already written (recompute never routes again).
  /// Collective over `data` where balance is global, when it routes in training.
  RouterOut forward(const Normed& x, StageContext& context);

 private:
  at::Tensor balance_counts(const at::Tensor& counts_GE, StageContext& context);

  const ModelConfig& config_;
  std::string prefix_;
  Communicator& data_;
  at::Tensor w_ED_;
};

}  // namespace olmoe

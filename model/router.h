// Shapes: N tokens, D width, E experts, K chosen for each token, U groups of N/U consecutive tokens.
#pragma once
#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

struct RouterOut {
  at::Tensor scores_NK;  ///< fp32 or float64, differentiable
  at::Tensor aux;    ///< (alpha * load-balancing loss + beta * z-loss) / blocks with experts; a scalar, differentiable
  StageStats stats;  ///< with 0 dropped
};

/// Token-choice routing: softmax over all experts, then the K largest, ties to the lower index.
///   load balancing = mean over groups of E * sum_e f_e * p_e,  f_e the share of the group's N/U*K assignments,
///                    p_e the mean probability; the group is the micro-batch or each sequence. Global: f_e is the share
///                    of the assignments of an accumulation step on all ranks, so that the losses of the ranks, each
///                    weighted by its tokens, add up to that of all micro-batches of the accumulation step
///   z-loss         = mean over tokens of logsumexp(logits)^2
/// Source: arXiv 2409.02060 section 2; Shazeer et al. 2017; ST-MoE (arXiv 2202.08906).
class Router {
 public:
  /// `data`: the ranks whose assignments global load balancing sums; it outlives the router.
  Router(const ModelConfig& config, std::string prefix, Communicator& data);
  StageState state();
  /// Chooses experts and writes the choice to the context's routing; if that holds a choice, as in Phase::recompute, it
  /// is used. Collective over `data` in Phase::train if load balancing is global.
  RouterOut forward(const Normed& x, StageContext& context);
  StageCost cost(const CostContext& context) const;

 private:
  at::Tensor balance_counts(const at::Tensor& counts_UE, StageContext& context);

  const ModelConfig& config_;
  std::string prefix_;
  Communicator& data_;
  at::Tensor w_ED_;
};

}  // namespace olmoe

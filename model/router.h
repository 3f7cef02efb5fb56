// Shapes: N tokens, D width, E experts, K chosen for each token, U groups of N/U consecutive tokens.
#pragma once
#include <ATen/core/Tensor.h>

#include "model/balancing_bias.h"
#include "model/config.h"
#include "model/layers.h"
#include "model/scoring.h"
#include "model/stage.h"

namespace olmoe {

struct RouterOut {
  at::Tensor scores_NK;  ///< fp32 or float64, differentiable
  at::Tensor aux;    ///< (alpha * load-balancing loss + beta * z-loss) / blocks with experts; a scalar, differentiable
  StageStats stats;  ///< with 0 dropped
};

/// Scores of all experts (Scoring), then the K experts with the largest, alone or with a bias (BalancingBias); ties to
/// the lower index. Where experts choose K is E: all experts in order; MoeLayer keeps some.
///   load balancing = mean over groups of E * sum_e f_e * p_e,  p_e the mean probability of the group's tokens,
///                    f_e a share of assignments (ModelConfig::load_balancing_granularity): of the group's, a group
///                    being the micro-batch or each sequence; global: of an accumulation step of all ranks; step: of
///                    the optimizer step; previous_step: of the step before, a buffer, equal shares at first
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
  void end_step(const StepStats& step);
  StageCost cost(const CostContext& context) const;

 private:
  at::Tensor gates(const at::Tensor& scores_NK) const;
  at::Tensor balance_counts(const at::Tensor& counts_UE, StageContext& context);

  const ModelConfig& config_;
  std::string prefix_;
  Communicator& data_;
  Scoring scoring_;
  BalancingBias bias_;
  at::Tensor w_ED_;
  at::Tensor previous_counts_E_;  // float64; defined with BalanceGranularity::previous_step
};

}  // namespace olmoe

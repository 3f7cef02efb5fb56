// Shapes: N tokens, E experts, K experts of each token.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "model/config.h"
#include "model/stage.h"

namespace olmoe {

/// model.balancing_bias: b_E, which is added to what ranks the experts of a token, and to nothing else. It is zero at
/// first, equal on all ranks, in the checkpoint, and updated once an optimizer step without a gradient:
///   loss_free ranks s_ne + b_e, s the scores;  b_e += rate * sign(mean(c) - c_e), c the step's assignments
///   quantile  ranks z_ne + b_e, z the logits;  b = (1 - rate) b - rate * q, less its mean. q_e is the mean over
///             micro-batches and ranks of the (floor(N K / E) + 1)-th largest over tokens of z_ne - a_n, with a_n the
///             (K+1)-th largest of z_ne + b_e: with the bias -q each expert would have had N K / E of these tokens
/// Source: arXiv 2408.15664 (loss-free, as in DeepSeek-V3); Megatron-LM PR 5349 (quantile).
class BalancingBias {
 public:
  explicit BalancingBias(const ModelConfig& config);
  /// Whether there is one.
  explicit operator bool() const { return config_.balancing_bias != ExpertBias::none; }
  StageBuffer buffer(const std::string& name) { return {name, &bias_E_}; }
  /// What ranks the experts, [N, E] in the dtype of scores.
  at::Tensor keys(const at::Tensor& logits_NE) const;
  /// StageStats::quantiles_E1 of a micro-batch, given its keys(); undefined but for quantile.
  at::Tensor quantiles(const at::Tensor& logits_NE, const at::Tensor& keys_NE) const;
  void end_step(const StepStats& step);

 private:
  const ModelConfig& config_;
  at::Tensor bias_E_;  // float64
};

}  // namespace olmoe

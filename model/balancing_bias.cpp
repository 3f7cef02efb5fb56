#include "model/balancing_bias.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace olmoe {

BalancingBias::BalancingBias(const ModelConfig& config)
    : config_(config), bias_E_(at::zeros({config.num_experts}, at::kDouble)) {}

at::Tensor BalancingBias::keys(const at::Tensor& logits_NE) const {
  const auto z_NE = logits_NE.scalar_type() == at::kDouble ? logits_NE : logits_NE.to(at::kFloat);
  const auto bias_E = bias_E_.to(z_NE.scalar_type());
  if (config_.balancing_bias == ExpertBias::quantile) return z_NE + bias_E;
  return (config_.router_score == RouterScore::sigmoid ? at::sigmoid(z_NE) : at::softmax(z_NE, 1)) + bias_E;
}

at::Tensor BalancingBias::quantiles(const at::Tensor& logits_NE, const at::Tensor& keys_NE) const {
  if (config_.balancing_bias != ExpertBias::quantile) return {};
  const int64_t tokens = keys_NE.size(0), E = config_.num_experts, K = config_.top_k;
  const auto options = keys_NE.options().dtype(at::kDouble);
  if (tokens == 0) return at::zeros({E + 1}, options);
  const auto by_token = std::get<0>(at::sort(keys_NE, /*dim=*/1, /*descending=*/true));
  const auto margin_NE = logits_NE.to(keys_NE.scalar_type()) - by_token.narrow(1, K, 1);
  const int64_t rank = std::min(tokens * K / E, tokens - 1);
  const auto by_expert = std::get<0>(at::sort(margin_NE, /*dim=*/0, /*descending=*/true));
  return at::cat({by_expert[rank].to(at::kDouble), at::ones({1}, options)});
}

void BalancingBias::end_step(const StepStats& step) {
  auto next_E = bias_E_;
  if (config_.balancing_bias == ExpertBias::loss_free) {
    next_E = bias_E_ + at::sign(step.counts_E.mean() - step.counts_E) * config_.balancing_bias_rate.value_or(0.001);
  } else {
    const double rate = config_.balancing_bias_rate.value_or(1.0);
    const int64_t E = config_.num_experts;
    const auto q_E = step.quantiles_E1.narrow(0, 0, E) / step.quantiles_E1[E];
    next_E = bias_E_ * (1 - rate) - q_E * rate;
    next_E = next_E - next_E.mean();
  }
  bias_E_.copy_(at::where(step.finite, next_E, bias_E_));  // in place: checkpoints and graphs refer to its memory
}

}  // namespace olmoe

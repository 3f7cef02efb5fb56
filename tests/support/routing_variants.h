// The routing variants that tests of models and runs go through.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "model/config.h"

namespace olmoe::test {

struct RoutingVariant {
  std::string name;
  std::function<void(ModelConfig&)> set;
};

inline const std::vector<RoutingVariant>& routing_variants() {
  static const std::vector<RoutingVariant> all{
      {"sigmoid, renormalized",
       [](auto& m) {
         m.router_score = RouterScore::sigmoid;
         m.renormalize_scores = true;
       }},
      {"sigmoid by sequence",
       [](auto& m) {
         m.router_score = RouterScore::sigmoid;
         m.load_balancing_granularity = BalanceGranularity::sequence;
       }},
      {"scaled scores",
       [](auto& m) {
         m.renormalize_scores = true;
         m.score_scale = 2.5;
       }},
      {"constant gate",
       [](auto& m) {
         m.gate = Gate::constant;
         m.score_scale = 0.5;
       }},
      {"loss-free bias", [](auto& m) { m.balancing_bias = ExpertBias::loss_free; }},
      {"loss-free bias on sigmoid",
       [](auto& m) {
         m.router_score = RouterScore::sigmoid;
         m.balancing_bias = ExpertBias::loss_free;
         m.balancing_bias_rate = 0.05;
       }},
      {"quantile bias",
       [](auto& m) {
         m.balancing_bias = ExpertBias::quantile;
         m.balancing_bias_rate = 0.5;
       }},
      {"counts of the step before", [](auto& m) { m.load_balancing_granularity = BalanceGranularity::previous_step; }},
      {"counts of the step", [](auto& m) { m.load_balancing_granularity = BalanceGranularity::step; }},
      {"counts of the step over all layers",
       [](auto& m) {
         m.load_balancing_granularity = BalanceGranularity::step;
         m.load_balancing_over_layers = true;
       }},
      {"shared experts",
       [](auto& m) {
         m.num_shared_experts = 2;
         m.shared_expert_width = 6;
       }},
      {"gated shared expert",
       [](auto& m) {
         m.num_shared_experts = 1;
         m.shared_expert_gate = true;
       }},
      {"dense layers and every second block",
       [](auto& m) {
         m.num_layers = 4;
         m.dense_layers = 1;
         m.moe_every = 2;
         m.dense_width = 20;
       }},
      {"as DeepSeek-V3",
       [](auto& m) {
         m.router_score = RouterScore::sigmoid;
         m.renormalize_scores = true;
         m.score_scale = 2.5;
         m.balancing_bias = ExpertBias::loss_free;
         m.load_balancing_granularity = BalanceGranularity::sequence;
         m.num_shared_experts = m.dense_layers = 1;
       }},
  };
  return all;
}

/// `model` as a variant has it.
inline ModelConfig with(const RoutingVariant& variant, ModelConfig model) {
  variant.set(model);
  return model;
}

}  // namespace olmoe::test

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

/// Of routers, shared experts and the blocks that have experts.
inline const std::vector<RoutingVariant>& router_variants() {
  static const std::vector<RoutingVariant> all{
      {"sigmoid, renormalized",
       [](auto& m) {
         m.router_score = RouterScore::sigmoid;
         m.renormalize_scores = true;
       }},
      {"sigmoid", [](auto& m) { m.router_score = RouterScore::sigmoid; }},
      {"sigmoid by sequence",
       [](auto& m) {
         m.router_score = RouterScore::sigmoid;
         m.load_balancing_granularity = BalanceGranularity::sequence;
       }},
      {"scaled scores", [](auto& m) { m.renormalize_scores = true, m.score_scale = 2.5; }},
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

/// A number for each block, all of them different.
inline std::vector<int64_t> rising_widths(const ModelConfig& model) {
  std::vector<int64_t> out;
  for (int64_t layer = 0; layer < model.num_layers; ++layer) out.push_back(6 + 5 * layer);
  return out;
}

/// Of what experts take, and how wide they are.
inline std::vector<RoutingVariant> expert_variants() {
  return {
      {"latent experts", [](auto& m) { m.latent_dim = 10; }},
      {"as OLMo 3.5: latent experts, a shared one, norms before and after",
       [](auto& m) {
         m.latent_dim = 8;
         m.renormalize_scores = true;
         m.score_scale = 2;
         m.num_shared_experts = 1;
         m.norm_position = NormPosition::both;
       }},
      {"experts choose of each sequence",
       [](auto& m) {
         m.routing = RoutingMethod::expert_choice;
         m.load_balancing_weight = 0;
       }},
      {"experts choose of the micro-batch, latent, a shared one, scaled scores",
       [](auto& m) {
         m.routing = RoutingMethod::expert_choice;
         m.expert_choice_scope = ChoiceScope::micro_batch;
         m.load_balancing_weight = 0;
         m.latent_dim = 8;
         m.num_shared_experts = 1;
         m.score_scale = 2;
       }},
      {"shared by all blocks", [](auto& m) { m.share_experts = true; }},
      {"shared by every second block after a dense one, with all that is each block's own",
       [](auto& m) {
         m.num_layers = 5;
         m.dense_layers = 1;
         m.moe_every = 2;
         m.dense_width = 14;
         m.share_experts = true;
         m.latent_dim = 8;
         m.num_shared_experts = 1;
         m.balancing_bias = ExpertBias::loss_free;
         m.load_balancing_granularity = BalanceGranularity::step;
         m.load_balancing_over_layers = true;
       }},
      {"a width for each block", [](auto& m) { m.layer_widths = rising_widths(m); }},
      {"a width for each block, dense ones too, latent experts, a shared one",
       [](auto& m) {
         m.num_layers = 4;
         m.dense_layers = 1;
         m.moe_every = 2;
         m.layer_widths = {20, 7, 12, 14};
         m.latent_dim = 8;
         m.num_shared_experts = 1;
         m.shared_expert_width = 9;
       }},
  };
}

inline const std::vector<RoutingVariant>& routing_variants() {
  static const std::vector<RoutingVariant> all = [] {
    auto variants = router_variants();
    for (auto& variant : expert_variants()) variants.push_back(std::move(variant));
    return variants;
  }();
  return all;
}

/// `model` as a variant has it.
inline ModelConfig with(const RoutingVariant& variant, ModelConfig model) {
  variant.set(model);
  return model;
}

}  // namespace olmoe::test

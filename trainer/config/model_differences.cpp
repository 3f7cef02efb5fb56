#include "trainer/config/model_differences.h"

#include <algorithm>

namespace olmoe {
namespace {

using Blocks = std::vector<BlockSpec>;

bool is_dense(const BlockSpec& block) { return !block.feed_forward.has_experts(); }

bool have_same(const Blocks& a, const Blocks& b, const auto& property) {
  return std::ranges::equal(a, b, {}, property, property);
}

/// Takes what is said in other words for the same blocks, and what has no effect, as `b` has it.
void take_words(ModelConfig& a, const ModelConfig& b) {
  const auto take = [&](auto... keys) { ((a.*keys = b.*keys), ...); };
  const auto left = a.blocks(), right = b.blocks();
  if (have_same(left, right, [](const BlockSpec& block) { return block.attention.window; }))
    take(&ModelConfig::attention_windows);
  if (have_same(left, right, [](const BlockSpec& block) { return block.attention.rotary; }))
    take(&ModelConfig::position_embeddings);
  if (have_same(left, right, is_dense)) take(&ModelConfig::dense_layers, &ModelConfig::moe_every);
  if (a.shared_hidden() == b.shared_hidden()) take(&ModelConfig::num_shared_experts, &ModelConfig::shared_expert_width);
  const auto hidden = [](const BlockSpec& block) { return block.feed_forward.hidden; };
  const bool listed = !a.layer_widths.empty() || !b.layer_widths.empty();
  if (listed && have_same(left, right, hidden) && a.shared_hidden() == b.shared_hidden())
    take(&ModelConfig::layer_widths, &ModelConfig::expert_width, &ModelConfig::dense_width);
  if (std::ranges::none_of(left, is_dense) && std::ranges::none_of(right, is_dense)) take(&ModelConfig::dense_width);
  if (a.has_experts() || b.has_experts()) return;
  take(&ModelConfig::share_experts, &ModelConfig::num_experts, &ModelConfig::top_k, &ModelConfig::expert_width,
       &ModelConfig::latent_dim, &ModelConfig::routing, &ModelConfig::expert_choice_scope, &ModelConfig::dense_layers,
       &ModelConfig::moe_every, &ModelConfig::num_shared_experts, &ModelConfig::shared_expert_width,
       &ModelConfig::shared_expert_gate, &ModelConfig::router_score, &ModelConfig::renormalize_scores,
       &ModelConfig::score_scale, &ModelConfig::gate, &ModelConfig::balancing_bias);
}

}  // namespace

ModelConfig with_training_keys(ModelConfig model, const ModelConfig& trained) {
  model.router_dtype = trained.router_dtype;
  model.load_balancing_weight = trained.load_balancing_weight;
  model.load_balancing_granularity = trained.load_balancing_granularity;
  model.load_balancing_over_layers = trained.load_balancing_over_layers;
  model.balancing_bias_rate = trained.balancing_bias_rate;
  model.router_z_weight = trained.router_z_weight;
  model.capacity_factor = trained.capacity_factor;
  model.capacity_order = trained.capacity_order;
  model.init_std = trained.init_std;
  model.init_cutoff = trained.init_cutoff;
  model.init = trained.init;
  model.output_z_weight = trained.output_z_weight;
  model.loss_chunk = trained.loss_chunk;
  return model;
}

std::vector<std::string> model_differences(const ModelConfig& a, const ModelConfig& b) {
  auto left = with_training_keys(a, b), right = b;
  left.dense_width = left.dense_hidden(), right.dense_width = right.dense_hidden();
  take_words(left, right);
  auto out = differing_fields(left, right);
  for (auto& line : out) line = "model." + line;
  return out;
}

}  // namespace olmoe

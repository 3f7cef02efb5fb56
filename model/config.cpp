#include "model/config.h"

#include <algorithm>
#include <set>

namespace olmoe {

std::vector<BlockSpec> ModelConfig::blocks() const {
  const FeedForwardSpec experts{num_experts, top_k, expert_width, shared_hidden(), latent_dim},
      dense{0, 1, dense_hidden()};
  std::vector<BlockSpec> out;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    out.push_back({{num_heads, num_kv_heads, head_dim(), attention_window(layer), is_rotary(layer)},
                   is_moe_layer(layer) ? experts : dense});
    if (!layer_widths.empty()) out.back().feed_forward.hidden = layer_widths.at(static_cast<size_t>(layer));
  }
  return out;
}

std::vector<int64_t> ModelConfig::expert_widths() const {
  if (layer_widths.empty()) return {expert_width};
  std::set<int64_t> widths;
  for (int64_t layer = 0; layer < std::min<int64_t>(num_layers, std::ssize(layer_widths)); ++layer)
    if (is_moe_layer(layer)) widths.insert(layer_widths[static_cast<size_t>(layer)]);
  return {widths.begin(), widths.end()};
}

namespace {

/// Of widths by block: "key: what is wrong".
std::vector<std::string> problems_of_widths(const ModelConfig& config) {
  const auto& widths = config.layer_widths;
  if (widths.empty()) return {};
  if (std::ssize(widths) != config.num_layers)
    return {fmt::format("layer_widths: {} numbers, but num_layers = {} blocks", widths.size(), config.num_layers)};
  std::vector<std::string> problems;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const int64_t width = widths[static_cast<size_t>(layer)], most = config.is_moe_layer(layer) ? 1 << 17 : 1 << 24;
    if (width < 1 || width > most)
      problems.push_back(fmt::format("layer_widths: {} of block {} must be between 1 and {}", width, layer, most));
  }
  if (config.dense_width > 0)
    problems.push_back(fmt::format("dense_width: {} has no effect with layer_widths", config.dense_width));
  if (config.has_experts() && config.num_shared_experts > 0 && config.shared_expert_width == 0)
    problems.push_back("shared_expert_width: must be given with layer_widths, where no expert_width says it");
  return problems;
}

/// Of experts that blocks share: "key: what is wrong".
std::vector<std::string> problems_of_sharing(const ModelConfig& config) {
  if (!config.share_experts || config.ffn == Ffn::dense) return {};
  std::vector<std::string> problems;
  if (config.num_moe_layers() < 2)
    problems.push_back(fmt::format("share_experts: {} of num_layers = {} blocks has experts, and two would share them",
                                   config.num_moe_layers(), config.num_layers));
  if (const auto widths = config.expert_widths(); widths.size() > 1)
    problems.push_back(fmt::format("share_experts: experts of widths {} and {} (layer_widths) cannot be the same",
                                   widths.front(), widths.back()));
  return problems;
}

/// Of what experts take: "key: what is wrong".
std::vector<std::string> problems_of_experts(const ModelConfig& config) {
  std::vector<std::string> problems;
  const auto require = [&](bool good, std::string problem) {
    if (!good) problems.push_back(std::move(problem));
  };
  require(config.latent_dim <= config.d_model,
          fmt::format("latent_dim: {} is more than d_model = {}", config.latent_dim, config.d_model));
  require(
      config.latent_dim == 0 || config.dense_width > 0 || !config.layer_widths.empty() ||
          config.num_moe_layers() == config.num_layers,
      fmt::format("dense_width: must be given with latent_dim = {}: what a token uses of experts of that width is no "
                  "whole width of a dense feed-forward",
                  config.latent_dim));
  const bool by_score = config.capacity_order == CapacityOrder::score;
  require(!by_score || config.capacity_factor, "capacity_order: score has no effect without capacity_factor");
  require(!by_score || config.gate == Gate::score, "capacity_order: score, but with gate: constant all are equal");
  require(!by_score || config.top_k > 1 || !config.renormalize_scores,
          "capacity_order: score, but with renormalize_scores and top_k = 1 all are 1");
  const bool by_expert = config.experts_choose();
  const auto refuse = [&](bool bad, const std::string& why) { require(!(bad && by_expert), why); };
  require(by_expert || config.expert_choice_scope == ChoiceScope::sequence,
          "expert_choice_scope: it has no effect with routing: token_choice");
  refuse(config.load_balancing_weight != 0,
         "load_balancing_weight: must be 0 with routing: expert_choice, where all experts have equally many tokens");
  refuse(config.load_balancing_granularity != BalanceGranularity::micro_batch,
         "load_balancing_granularity: it has no effect with routing: expert_choice");
  refuse(config.balancing_bias != ExpertBias::none,
         "balancing_bias: with routing: expert_choice there is nothing to balance");
  refuse(config.router_score != RouterScore::softmax, "router_score: routing: expert_choice has softmax alone");
  refuse(config.renormalize_scores, "renormalize_scores: not with routing: expert_choice, where a token may have none");
  refuse(config.gate != Gate::score, "gate: constant with routing: expert_choice would leave the router untrained");
  refuse(config.capacity_factor.has_value(),
         "capacity_factor: with routing: expert_choice an expert has the number of tokens that top_k says");
  return problems;
}

}  // namespace

std::vector<std::string> validate(const ModelConfig& config, const std::string& path) {
  auto problems = values_out_of_range(config, path);
  if (!problems.empty()) return problems;
  auto require = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(path + "." + problem);
  };

  require(config.d_model % (2 * config.num_heads) == 0,
          fmt::format("d_model: {} must be an even multiple of {}.num_heads = {} (rotary embedding rotates pairs)",
                      config.d_model, path, config.num_heads));
  require(config.num_heads % config.num_kv_heads == 0,
          fmt::format("num_kv_heads: {} must divide {}.num_heads = {}", config.num_kv_heads, path, config.num_heads));
  require(config.top_k <= config.num_experts,
          fmt::format("top_k: {} is more than {}.num_experts = {}", config.top_k, path, config.num_experts));
  if (config.ffn == Ffn::moe)
    require(
        config.num_moe_layers() > 0,
        fmt::format("dense_layers: no block of {}.num_layers = {} has experts with {} dense ones and moe_every = {}; "
                    "a model without experts is {}.ffn: dense",
                    path, config.num_layers, config.dense_layers, config.moe_every, path));
  require(config.shared_expert_width == 0 || config.num_shared_experts > 0,
          fmt::format("shared_expert_width: {} has no effect with num_shared_experts = 0", config.shared_expert_width));
  require(!config.shared_expert_gate || config.num_shared_experts > 0,
          "shared_expert_gate: it has no effect with num_shared_experts = 0");
  require(
      !config.load_balancing_over_layers || config.load_balancing_granularity == BalanceGranularity::step,
      "load_balancing_over_layers: a block's loss needs the assignments of later blocks, which are counted before it "
      "with load_balancing_granularity: step alone");
  require(config.gate == Gate::score || !config.renormalize_scores,
          "gate: constant takes no score, so that renormalize_scores has no effect");
  require(!config.balancing_bias_rate || config.balancing_bias != ExpertBias::none,
          "balancing_bias_rate: it has no effect with balancing_bias: none");
  require(config.balancing_bias != ExpertBias::quantile || config.balancing_bias_rate.value_or(1) <= 1,
          "balancing_bias_rate: with quantile it is a share, at most 1");
  require(config.balancing_bias != ExpertBias::quantile || config.top_k < config.num_experts,
          fmt::format("balancing_bias: quantile needs an expert that is not chosen, but top_k = num_experts = {}",
                      config.num_experts));
  for (const auto& problem : problems_of_widths(config)) require(false, problem);
  for (const auto& problem : problems_of_sharing(config)) require(false, problem);
  for (const auto& problem : problems_of_experts(config)) require(false, problem);
  for (const auto& problem : problems_of(config, config.num_layers)) require(false, problem);
  require(!config.layer_widths.empty() || config.dense_hidden() <= 1 << 24,
          fmt::format("dense_width: {} gives a hidden width of {}, more than {}", config.dense_width,
                      config.dense_hidden(), 1 << 24));
  for (const auto& problem : problems_of(config)) require(false, problem);
  return problems;
}

}  // namespace olmoe

#include "model/config.h"

namespace olmoe {

std::vector<BlockSpec> ModelConfig::blocks() const {
  const FeedForwardSpec experts{num_experts, top_k, expert_width, shared_hidden()}, dense{0, 1, dense_hidden()};
  std::vector<BlockSpec> out;
  for (int64_t layer = 0; layer < num_layers; ++layer)
    out.push_back({{num_heads, num_kv_heads, head_dim(), attention_window(layer), is_rotary(layer)},
                   is_moe_layer(layer) ? experts : dense});
  return out;
}

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
  for (const auto& problem : problems_of(config, config.num_layers)) require(false, problem);
  require(config.dense_hidden() <= 1 << 24, fmt::format("dense_width: {} gives a hidden width of {}, more than {}",
                                                        config.dense_width, config.dense_hidden(), 1 << 24));
  for (const auto& problem : problems_of(config)) require(false, problem);
  return problems;
}

}  // namespace olmoe

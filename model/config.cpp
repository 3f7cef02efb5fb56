#include "model/config.h"

namespace olmoe {

std::vector<BlockSpec> ModelConfig::blocks() const {
  const AttentionSpec attention{num_heads, num_kv_heads, head_dim()};
  const auto feed_forward =
      ffn == Ffn::moe ? FeedForwardSpec{num_experts, top_k, expert_width} : FeedForwardSpec{0, 1, dense_hidden()};
  return {static_cast<size_t>(num_layers), BlockSpec{attention, feed_forward}};
}

std::vector<std::string> validate(const ModelConfig& config, const std::string& path) {
  auto problems = values_out_of_range(config, path);
  if (!problems.empty()) return problems;
  auto require = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(path + "." + problem);
  };

  require(config.d_model % (2 * config.num_heads) == 0,
          fmt::format("d_model: {} must be an even multiple of {}.num_heads = {} (rotary turns pairs)", config.d_model,
                      path, config.num_heads));
  require(config.num_heads % config.num_kv_heads == 0,
          fmt::format("num_kv_heads: {} must divide {}.num_heads = {}", config.num_kv_heads, path, config.num_heads));
  require(config.top_k <= config.num_experts,
          fmt::format("top_k: {} is more than {}.num_experts = {}", config.top_k, path, config.num_experts));
  require(config.dense_hidden() <= 1 << 24, fmt::format("dense_width: {} gives a hidden width of {}, more than {}",
                                                        config.dense_width, config.dense_hidden(), 1 << 24));
  require(!config.clip_qkv || *config.clip_qkv > 0, "clip_qkv: must be positive, or null for none");
  require(config.rope_theta > 0, fmt::format("rope_theta: {} must be positive", config.rope_theta));
  require(config.norm_eps > 0, fmt::format("norm_eps: {} must be positive", config.norm_eps));
  require(config.load_balancing_weight >= 0, "load_balancing_weight: must not be negative");
  require(config.router_z_weight >= 0, "router_z_weight: must not be negative");
  require(!config.capacity_factor || (*config.capacity_factor > 0 && *config.capacity_factor <= 1 << 14),
          "capacity_factor: must be positive and at most 16384, or null for dropless");
  require(config.init_std > 0, fmt::format("init_std: {} must be positive", config.init_std));
  require(config.init_cutoff > 0, fmt::format("init_cutoff: {} must be positive", config.init_cutoff));
  return problems;
}

}  // namespace olmoe

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
          fmt::format("d_model: {} must be an even multiple of {}.num_heads = {} (rotary embedding rotates pairs)",
                      config.d_model, path, config.num_heads));
  require(config.num_heads % config.num_kv_heads == 0,
          fmt::format("num_kv_heads: {} must divide {}.num_heads = {}", config.num_kv_heads, path, config.num_heads));
  require(config.top_k <= config.num_experts,
          fmt::format("top_k: {} is more than {}.num_experts = {}", config.top_k, path, config.num_experts));
  require(config.dense_hidden() <= 1 << 24, fmt::format("dense_width: {} gives a hidden width of {}, more than {}",
                                                        config.dense_width, config.dense_hidden(), 1 << 24));
  return problems;
}

}  // namespace olmoe

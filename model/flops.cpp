#include "model/flops.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "model/transformer.h"

namespace olmoe {

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts out{0, 0, -config.vocab_size * config.d_model};
  for (const auto& params : list_params(config))
    for (const auto& param : params) {
      const auto& shape = param.global_shape;
      const auto numel = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      out.total += numel;
      const int64_t uses = 1 + std::ssize(param.later_users);
      const int64_t used = param.axis == Axis::expert_shard ? numel / config.num_experts * config.top_k : numel;
      out.active += std::min(uses * used, numel);
      out.multiplied += uses * used;
    }
  return out;
}

FlopsPerToken count_flops(const ModelConfig& config, int64_t sequence_length) {
  const auto counts = count_parameters(config);
  const double products = 6.0 * static_cast<double>(counts.multiplied);
  const double per_key = 12.0 * static_cast<double>(config.d_model);
  FlopsPerToken out{products, products};
  for (const auto& block : config.blocks()) {
    out.causal += per_key * block.attention.mean_keys(sequence_length);
    out.full_attention += per_key * static_cast<double>(block.attention.most_keys(sequence_length));
  }
  return out;
}

ForwardFlops count_forward_flops(const ModelConfig& config, int64_t sequence_length) {
  const auto d = static_cast<double>(config.d_model);
  ForwardFlops out{};
  for (const auto& block : config.blocks()) {
    const auto& feed_forward = block.feed_forward;
    const auto latent = static_cast<double>(feed_forward.latent), width = latent > 0 ? latent : d;
    out.ffn += 6 * width * static_cast<double>(feed_forward.top_k * feed_forward.hidden) + 4 * d * latent;
    out.ffn += 6 * d * static_cast<double>(feed_forward.shared);
    if (feed_forward.shared > 0 && config.shared_expert_gate) out.ffn += 2 * d;
    out.projections += 2 * d * static_cast<double>(config.qkv_width() + config.d_model);
    if (config.attention_gate) out.projections += 2 * d * d;
    out.router += 2 * d * static_cast<double>(feed_forward.num_experts);
    out.attention += 4 * d * block.attention.mean_keys(sequence_length);
  }
  out.head = 2 * d * static_cast<double>(config.vocab_size);
  return out;
}

}  // namespace olmoe

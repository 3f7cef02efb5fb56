#include "trainer/memory_plan.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

#include "model/transformer.h"

namespace olmoe {
namespace {

int64_t element_bytes(ComputeDtype dtype) {
  return dtype == ComputeDtype::bfloat16 ? 2 : dtype == ComputeDtype::float32 ? 4 : 8;
}

/// Elements of the flat units of each stage, dense and expert together, without alignment padding.
std::vector<int64_t> stage_numels(const ModelConfig& config) {
  std::vector<int64_t> out;
  for (const auto& params : list_params(config)) {
    int64_t numel = 0;
    for (const auto& param : params)
      numel += std::accumulate(param.shape.begin(), param.shape.end(), int64_t{1}, std::multiplies<>());
    out.push_back(numel);
  }
  return out;
}

/// Elements that one block keeps for each token, and fp32 values beside them.
struct KeptPerToken {
  int64_t compute_elements;
  int64_t fp32_elements;
};

KeptPerToken kept_by_block(const ModelConfig& c) {
  const int64_t d = c.d_model;
  // Input, two normed copies, middle residual; qkv; rotated q and k; attention output.
  KeptPerToken kept{4 * d + c.qkv_width() + d + c.kv_width() + d, 4 + c.num_heads};
  if (c.ffn == Ffn::moe) {
    kept.compute_elements += c.top_k * 2 * c.expert_width;
    kept.fp32_elements += c.num_experts + 6 * c.top_k;  // probabilities; scores and indices
  } else {
    kept.compute_elements += 3 * c.dense_hidden();
  }
  return kept;
}

int64_t activation_bytes(const Config& config, int64_t element, int64_t master) {
  const auto& model = config.model;
  const int64_t tokens = config.train.micro_batch_size * config.data.sequence_length;
  const auto kept = kept_by_block(model);
  const int64_t block = tokens * (kept.compute_elements * element + kept.fp32_elements * master);
  const int64_t stage_input = tokens * model.d_model * element;
  const int64_t chunk = std::min(tokens, model.loss_chunk) * model.vocab_size * (element + master);
  const bool full = config.train.recompute == Recompute::full;
  return (full ? model.num_layers * stage_input + block : model.num_layers * block) + 2 * stage_input + chunk;
}

}  // namespace

std::vector<MemoryPlan::Kind> MemoryPlan::kinds() const {
  return {{"weights", weights},
          {"gradients", gradients},
          {"moments", moments},
          {"gathered weights", gathered_weights},
          {"full gradients", full_gradients},
          {"activations", activations}};
}

MemoryPlan plan_memory(const Config& config, MeshShape mesh) {
  const int64_t element = element_bytes(config.train.compute_dtype), master = std::max<int64_t>(element, 4);
  const auto numels = stage_numels(config.model);
  const int64_t all = std::accumulate(numels.begin(), numels.end(), int64_t{0});
  const int64_t mine = (all + mesh.shard - 1) / mesh.shard;
  std::array<int64_t, 2> by_parity{0, 0};
  for (size_t s = 0; s < numels.size(); ++s) by_parity[s % 2] = std::max(by_parity[s % 2], numels[s]);
  const int64_t pool = by_parity[0] + by_parity[1];
  const bool whole = mesh.shard == 1, same_dtype = element == master;
  MemoryPlan plan{};
  plan.weights = plan.gradients = mine * master;
  plan.moments = 2 * mine * master;
  if (!(whole && same_dtype)) plan.gathered_weights = (config.parallel.zero_stage == 3 ? pool : all) * element;
  if (!whole) plan.full_gradients = pool * master;
  plan.activations = activation_bytes(config, element, master);
  return plan;
}

std::string describe(const MemoryPlan& plan) {
  auto size = [](int64_t bytes) {
    const double mib = static_cast<double>(bytes) / (1 << 20);
    return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
  };
  return fmt::format(
      "{} = weights {} + gradients {} + moments {} + gathered weights {} + full gradients {} + activations about {}",
      size(plan.total()), size(plan.weights), size(plan.gradients), size(plan.moments), size(plan.gathered_weights),
      size(plan.full_gradients), size(plan.activations));
}

}  // namespace olmoe

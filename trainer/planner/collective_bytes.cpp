#include "trainer/planner/collective_bytes.h"

#include <algorithm>
#include <cmath>

#include "core/integers.h"
#include "model/cost.h"

namespace olmoe {
namespace {

/// Bytes of dispatch and combine in a step. Forward: dispatch sends a row, scores and ids, combine returns a row.
/// Backward: the gradient of that row is sent, and those of the row and the scores return. Full activation
/// checkpointing repeats the forward without ids; a step that is counted first repeats it whole.
int64_t exchange_bytes(const Config& config, MeshShape mesh, const StepCounts& step, TokenCopies copies) {
  if (mesh.expert == 1) return 0;
  const auto& model = config.model;
  const int64_t row = model.expert_dim() * compute_bytes(config), scores = model.choices() * master_bytes(config);
  const int64_t ids = model.choices() * static_cast<int64_t>(sizeof(int32_t));
  const int64_t choices = step.counted_passes > 0 ? 2 : 1;
  const int64_t forwards = choices + (config.train.recompute == Recompute::full ? 1 : 0);
  const int64_t counts = (mesh.expert - 1) * 2 * static_cast<int64_t>(sizeof(int64_t));  // copies and rows to each rank
  return copies.sent * (forwards * (row + scores) + choices * ids + row) +
         copies.received * (forwards * row + row + scores) +
         (step.passes + step.counted_passes) * model.num_moe_layers() * config.parallel.expert_chunks * counts;
}

/// Bytes that a rank sends in an all_reduce of `numel` elements, of which it sums its own part [cut, cut).
int64_t all_reduce_numel(int64_t numel, int ranks, int rank) {
  const int64_t own = cut(numel, ranks, rank + 1) - cut(numel, ranks, rank);
  return numel - own + (ranks - 1) * own;
}

}  // namespace

int64_t compute_bytes(const Config& config) { return element_bytes(config.train.compute_dtype); }

int64_t master_bytes(const Config& config) { return std::max<int64_t>(compute_bytes(config), 4); }

int64_t reduce_bytes(const Config& config) {
  return config.parallel.reduce_dtype == ReduceDtype::bfloat16 ? 2 : master_bytes(config);
}

StepCounts count_step(const Config& config, MeshShape mesh) {
  const auto& train = config.train;
  const int64_t ranks = int64_t{mesh.replicate} * mesh.shard;
  const int64_t passes = train.batches(ranks).accumulation_steps(), zero_stage = config.parallel.zero_stage;
  const bool counts = config.model.has_experts() && config.model.load_balancing_weight > 0 &&
                      config.model.load_balancing_granularity == BalanceGranularity::step &&
                      (passes > 1 || config.model.load_balancing_over_layers);
  const int64_t counted = counts ? passes : 0;
  return {.passes = passes,
          .counted_passes = counted,
          .forward_gathers = zero_stage == 3 ? passes : 1,
          .count_gathers = zero_stage == 3 ? counted : 0,
          .backward_gathers = zero_stage == 3 ? passes : 0,
          .reductions = zero_stage == 1 ? 1 : passes};
}

TokenCopies expected_copies_of_step(const ModelConfig& model, MeshShape mesh, int64_t tokens) {
  if (!model.has_experts() || mesh.expert == 1) return {};
  const double of_token = expected_copies(model, mesh.expert);
  const int64_t copies = std::llround(of_token * static_cast<double>(tokens * model.num_moe_layers()));
  return {copies, copies};
}

CollectiveBytes count_collective_bytes(const Config& config, const ModelOnMesh& model, TokenCopies copies,
                                       int replica) {
  const auto& mesh = model.mesh;
  const auto counts = count_step(config, mesh);
  const int64_t element = compute_bytes(config), master = master_bytes(config), reduced = reduce_bytes(config);
  CollectiveBytes out;
  for (size_t s = 0; s < model.stages.size(); ++s) {
    const bool last = s + 1 == model.stages.size();
    const int64_t gathers = counts.forward_gathers + (last ? 0 : counts.backward_gathers + counts.count_gathers);
    const auto& [dense, experts, tied, tied_experts] = model.stages[s];
    out.gather_dense += (dense.ranks - 1) * (gathers * dense.slice() + tied.slice()) * element;
    out.gather_experts += (experts.ranks - 1) * (gathers * experts.slice() + tied_experts.slice()) * element;
    out.reduce_dense += counts.reductions * (dense.ranks - 1) * (dense.slice() + tied.slice()) * reduced;
    out.reduce_experts += counts.reductions * (experts.ranks - 1) * (experts.slice() + tied_experts.slice()) * reduced;
    for (const auto* unit : model.stages[s].all())
      if (mesh.replicate > 1) out.replicas += master * all_reduce_numel(unit->slice(), mesh.replicate, replica);
  }
  out.exchange = exchange_bytes(config, mesh, counts, copies);
  out.matrices = model.muon.sent * element;
  return out;
}

CollectiveBytes count_collective_bytes(const Config& config, MeshShape mesh, TokenCopies copies, int replica) {
  return count_collective_bytes(config, ModelOnMesh(config, mesh), copies, replica);
}

}  // namespace olmoe

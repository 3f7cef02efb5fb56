#include "trainer/planner/model_on_mesh.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <numeric>

#include "parallel/flat_layout.h"
#include "trainer/config/parameter_groups.h"

namespace olmoe {
namespace {

UnitSize unit_of(const std::vector<int64_t>& numels, int ranks) {
  if (numels.empty()) return {.ranks = ranks};
  return {lay_out_flat(numels, ranks).numel, *std::max_element(numels.begin(), numels.end()), ranks};
}

std::vector<StageUnits> stage_units(const ModelOutline& model, MeshShape mesh) {
  std::vector<StageUnits> out;
  for (const auto& params : model.params()) {
    std::vector<int64_t> dense, experts;
    for (const auto& param : params) {
      const bool of_expert = param.axis == Axis::expert_shard;
      (of_expert ? experts : dense)
          .push_back(c10::multiply_integers(param.global_shape) / (of_expert ? mesh.expert : 1));
    }
    out.push_back({unit_of(dense, mesh.shard), unit_of(experts, mesh.expert_shard())});
  }
  return out;
}

/// Elements of a moment on each rank of a unit, as Optimizer lays them out.
std::vector<int64_t> moments_of_ranks(const std::vector<int64_t>& numels, const std::vector<bool>& frozen, int ranks) {
  const auto layout = lay_out_flat(numels, ranks);
  const int64_t slice = layout.numel / ranks;
  std::vector<int64_t> out(static_cast<size_t>(ranks), slice);
  if (std::ranges::find(frozen, true) == frozen.end()) return out;  // the shard's size, padding included
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<int64_t> trained;  // elements of each slice
    for (size_t i = 0; i < numels.size(); ++i) {
      const int64_t begin = std::max(layout.begins[i], rank * slice);
      const int64_t end = std::min(layout.begins[i] + numels[i], (rank + 1) * slice);
      if (begin < end && !frozen[i]) trained.push_back(end - begin);
    }
    out[static_cast<size_t>(rank)] = lay_out_flat(trained, /*ranks=*/1).numel;
  }
  return out;
}

int64_t most_moments(const OptimizerConfig& config, const ModelOutline& model, MeshShape mesh,
                     const std::vector<StageUnits>& stages) {
  if (!has_frozen(config))
    return std::accumulate(stages.begin(), stages.end(), int64_t{0}, [](int64_t sum, const StageUnits& stage) {
      return sum + stage.dense.slice() + stage.experts.slice();
    });
  std::vector<int64_t> of_ranks(static_cast<size_t>(mesh.shard));
  for (const auto& params : model.params())
    for (const auto axis : {Axis::shard, Axis::expert_shard}) {
      const int parts = axis == Axis::shard ? 1 : mesh.expert;  // of its experts
      std::vector<int64_t> numels;
      std::vector<bool> frozen;
      for (const auto& param : params) {
        if (param.axis != axis) continue;
        numels.push_back(c10::multiply_integers(param.global_shape) / parts);
        frozen.push_back(rule_of(config, param.name, param.role).frozen);
      }
      if (numels.empty()) continue;
      const auto of_unit = moments_of_ranks(numels, frozen, mesh.shard / parts);
      for (size_t rank = 0; rank < of_ranks.size(); ++rank)
        of_ranks[rank] += of_unit[rank / static_cast<size_t>(parts)];
    }
  return std::ranges::max(of_ranks);
}

}  // namespace

ModelOnMesh::ModelOnMesh(const Config& config, MeshShape on)
    : mesh(on),
      outline(std::make_shared<ModelOutline>(config.model)),
      stages(stage_units(*outline, on)),
      moments(most_moments(config.optimizer, *outline, on, stages)),
      flops(count_flops(config.model, config.data.sequence_length)) {}

}  // namespace olmoe

#include "trainer/planner/model_on_mesh.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "parallel/flat_layout.h"

namespace olmoe {
namespace {

int64_t numel_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

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
      (of_expert ? experts : dense).push_back(numel_of(param.global_shape) / (of_expert ? mesh.expert : 1));
    }
    out.push_back({unit_of(dense, mesh.shard), unit_of(experts, mesh.expert_shard())});
  }
  return out;
}

}  // namespace

ModelOnMesh::ModelOnMesh(const Config& config, MeshShape on)
    : mesh(on),
      outline(std::make_shared<ModelOutline>(config.model)),
      stages(stage_units(*outline, on)),
      flops(count_flops(config.model, config.data.sequence_length)) {}

}  // namespace olmoe

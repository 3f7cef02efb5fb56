#include "trainer/planner/model_on_mesh.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "parallel/flat_layout.h"
#include "trainer/config/parameter_groups.h"

namespace olmoe {
namespace {

UnitSize unit_size(const std::vector<int64_t>& numels, int ranks) {
  if (numels.empty()) return {.ranks = ranks};
  return {lay_out_flat(numels, ranks).numel, *std::max_element(numels.begin(), numels.end()), ranks};
}

enum class Unit { dense, experts, tied, tied_experts };
constexpr std::array kUnits{Unit::dense, Unit::experts, Unit::tied, Unit::tied_experts};

bool is_of_experts(Unit unit) { return unit == Unit::experts || unit == Unit::tied_experts; }

/// The unit of its stage that a parameter is in.
Unit unit_of(const Param& param) {
  if (param.axis == Axis::expert_shard) return param.is_tied() ? Unit::tied_experts : Unit::experts;
  return param.is_tied() ? Unit::tied : Unit::dense;
}

std::vector<StageUnits> stage_units(const ModelOutline& model, MeshShape mesh) {
  std::vector<StageUnits> out;
  for (const auto& params : model.params()) {
    std::map<Unit, std::vector<int64_t>> numels;
    for (const auto& param : params) {
      const auto unit = unit_of(param);
      numels[unit].push_back(c10::multiply_integers(param.global_shape) / (is_of_experts(unit) ? mesh.expert : 1));
    }
    const auto size_of = [&](Unit unit) {
      return unit_size(numels[unit], is_of_experts(unit) ? mesh.expert_shard() : mesh.shard);
    };
    out.push_back({size_of(Unit::dense), size_of(Unit::experts), size_of(Unit::tied), size_of(Unit::tied_experts)});
  }
  return out;
}

/// How the parameters of a unit are trained.
struct UnitRules {
  std::vector<int64_t> numels;
  std::vector<ParamRule> rules;
};

/// Elements of the state of what `selects` is true for, on each rank of a unit, as part_of_shard() lays it out.
std::vector<int64_t> state_of_ranks(const UnitRules& unit, int ranks,
                                    const std::function<bool(const ParamRule&)>& selects) {
  const auto layout = lay_out_flat(unit.numels, ranks);
  const int64_t slice = layout.numel / ranks;
  std::vector<int64_t> out(static_cast<size_t>(ranks), slice);
  if (std::ranges::all_of(unit.rules, selects)) return out;  // the shard's size, padding included
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<int64_t> selected;  // elements of each slice
    for (size_t i = 0; i < unit.numels.size(); ++i) {
      const int64_t begin = std::max(layout.begins[i], rank * slice);
      const int64_t end = std::min(layout.begins[i] + unit.numels[i], (rank + 1) * slice);
      if (begin < end && selects(unit.rules[i])) selected.push_back(end - begin);
    }
    out[static_cast<size_t>(rank)] = lay_out_flat(selected, /*ranks=*/1).numel;
  }
  return out;
}

TrainedElements most_trained(const OptimizerConfig& config, const ModelOutline& model, MeshShape mesh,
                             const std::vector<StageUnits>& stages) {
  if (!has_frozen(config) && config.kind == OptimizerKind::adamw)
    return {std::accumulate(stages.begin(), stages.end(), int64_t{0}, [](int64_t sum, const StageUnits& stage) {
      for (const auto* unit : stage.all()) sum += unit->slice();
      return sum;
    })};
  std::vector<TrainedElements> of_ranks(static_cast<size_t>(mesh.shard));
  const auto is_by = [](OptimizerKind kind) {
    return [kind](const ParamRule& rule) { return !rule.frozen && rule.kind == kind; };
  };
  for (const auto& params : model.params())
    for (const auto kind : kUnits) {
      const int parts = is_of_experts(kind) ? mesh.expert : 1;  // of its experts
      UnitRules unit;
      for (const auto& param : params) {
        if (unit_of(param) != kind) continue;
        unit.numels.push_back(c10::multiply_integers(param.global_shape) / parts);
        unit.rules.push_back(rule_of(config, param.name, param.role));
      }
      if (unit.numels.empty()) continue;
      const auto adamw = state_of_ranks(unit, mesh.shard / parts, is_by(OptimizerKind::adamw));
      const auto muon = state_of_ranks(unit, mesh.shard / parts, is_by(OptimizerKind::muon));
      for (size_t rank = 0; rank < of_ranks.size(); ++rank) {
        of_ranks[rank].adamw += adamw[rank / static_cast<size_t>(parts)];
        of_ranks[rank].muon += muon[rank / static_cast<size_t>(parts)];
      }
    }
  return *std::ranges::max_element(of_ranks, {}, &TrainedElements::moments);
}

}  // namespace

ModelOnMesh::ModelOnMesh(const Config& config, MeshShape on)
    : mesh(on),
      outline(std::make_shared<ModelOutline>(config.model)),
      stages(stage_units(*outline, on)),
      trained(most_trained(config.optimizer, *outline, on, stages)),
      muon(plan_muon(config.optimizer, *outline, on)),
      flops(count_flops(config.model, config.data.sequence_length)) {}

}  // namespace olmoe

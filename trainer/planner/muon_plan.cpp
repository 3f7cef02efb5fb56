#include "trainer/planner/muon_plan.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "parallel/flat_layout.h"
#include "trainer/config/muon_matrices.h"
#include "trainer/config/parameter_groups.h"

namespace olmoe {
namespace {

/// The matrices of one unit of a stage, those of one rank's experts or of what all ranks of shard share.
MatrixUnit matrices_of(const OptimizerConfig& config, const std::vector<Param>& params, Axis axis, MeshShape mesh) {
  const int parts = axis == Axis::shard ? 1 : mesh.expert;  // of its experts
  MatrixUnit unit{axis == Axis::shard ? mesh.shard : mesh.expert_shard(), 0, {}};
  std::vector<std::vector<int64_t>> shapes;
  std::vector<int64_t> numels;
  std::vector<const Param*> of_axis;
  for (const auto& param : params) {
    if (param.axis != axis || (axis == Axis::shard && param.is_tied())) continue;  // of experts all are, or none
    auto shape = param.global_shape;
    shape.front() /= parts;
    numels.push_back(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
    shapes.push_back(std::move(shape));
    of_axis.push_back(&param);
  }
  const auto layout = lay_out_flat(numels, unit.ranks);
  unit.shard_numel = layout.numel / unit.ranks;
  for (size_t p = 0; p < of_axis.size(); ++p) {
    const auto rule = rule_of(config, of_axis[p]->name, of_axis[p]->role);
    if (rule.kind != OptimizerKind::muon || rule.frozen) continue;
    const auto matrices = muon_matrices(shapes[p], of_axis[p]->parts, config.muon.qkv, layout.begins[p]);
    unit.matrices.insert(unit.matrices.end(), matrices.begin(), matrices.end());
  }
  return unit;
}

/// Elements of newton_schulz() on the rank where they are most.
int64_t most_at_once(std::span<const MatrixUnit> units, const MatrixHomes& homes) {
  std::map<std::pair<int64_t, int64_t>, std::map<int, int64_t>> counts;  // of each shape on each rank
  for (size_t u = 0; u < units.size(); ++u)
    for (size_t m = 0; m < units[u].matrices.size(); ++m)
      ++counts[{units[u].matrices[m].rows, units[u].matrices[m].cols}][homes[u][m]];
  int64_t most = 0;
  for (const auto& [shape, of_ranks] : counts)
    for (const auto& [rank, count] : of_ranks) {
      const int64_t at_once = std::min(count, matrices_at_once(shape.first, shape.second));
      most = std::max(most, newton_schulz_numel(at_once, shape.first, shape.second));
    }
  return most;
}

MuonPlan::Group plan_group(std::span<const MatrixUnit> units, const MatrixHomes& homes,
                           const std::vector<MatrixShare>& shares) {
  MuonPlan::Group out;
  for (const auto& share : shares) {
    out.held = std::max(out.held, share.held);
    out.homed = std::max(out.homed, share.homed);
    out.sent = std::max(out.sent, share.sent());
  }
  if (units.empty()) return out;
  const bool exchanges = units.front().ranks > 1;  // else matrices are orthogonalised where they were written
  out.buffers = out.held + (exchanges ? out.homed : 0) + most_at_once(units, homes);
  for (const auto& unit : units) out.largest = std::max(out.largest, unit.shard_numel);
  return out;
}

}  // namespace

int64_t MuonPlan::temporaries(int64_t compute_bytes, int64_t master_bytes) const {
  const auto of_group = [&](const Group& group) {
    return std::max(group.buffers * compute_bytes, group.held * compute_bytes + group.largest * master_bytes);
  };
  return std::max(of_group(dense), of_group(experts));
}

MuonPlan plan_muon(const OptimizerConfig& config, const ModelOutline& model, MeshShape mesh) {
  MuonPlan out;
  if (config.kind != OptimizerKind::muon) return out;
  std::vector<MatrixUnit> units;
  std::vector<Axis> axes;
  for (const auto& params : model.params())
    for (const auto axis : {Axis::shard, Axis::expert_shard}) {
      auto unit = matrices_of(config, params, axis, mesh);
      if (unit.matrices.empty()) continue;
      const int64_t copies = axis == Axis::shard ? 1 : mesh.expert;
      for (const auto& matrix : unit.matrices) out.matrices += copies, out.numel += copies * matrix.numel();
      units.push_back(std::move(unit));
      axes.push_back(axis);
    }
  const auto homes = plan_homes(units);
  std::vector<int64_t> sent(static_cast<size_t>(mesh.shard));
  for (const auto axis : {Axis::shard, Axis::expert_shard}) {
    std::vector<MatrixUnit> of_axis;
    MatrixHomes homes_of_axis;
    for (size_t u = 0; u < units.size(); ++u)
      if (axes[u] == axis) of_axis.push_back(units[u]), homes_of_axis.push_back(homes[u]);
    const auto shares = shares_of_ranks(of_axis, homes_of_axis);
    (axis == Axis::shard ? out.dense : out.experts) = plan_group(of_axis, homes_of_axis, shares);
    for (size_t rank = 0; !shares.empty() && rank < sent.size(); ++rank)
      sent[rank] += shares[rank / (sent.size() / shares.size())].sent();
  }
  out.sent = std::ranges::max(sent);
  const auto steps = static_cast<double>(config.muon.ns_steps);
  out.flops = steps * std::ranges::max(flops_of_ranks(units, homes));
  // Each product reads its operands and writes its result: 5 of [n, m] and 5 of [n, n] a step, which is no larger.
  out.passed = steps * 10 * static_cast<double>(out.dense.homed + out.experts.homed);
  return out;
}

}  // namespace olmoe

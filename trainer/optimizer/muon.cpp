#include "trainer/optimizer/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "parallel/collectives/host_tensor.h"
#include "trainer/config/muon_matrices.h"

namespace olmoe {

Muon::Muon(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config)
    : config_(config.muon), compute_dtype_(units.front()->compute_dtype()) {
  const auto& abc = config.muon.ns_coefficients;
  newton_schulz_ = {{abc.at(0), abc.at(1), abc.at(2)}, config.muon.ns_steps};
  const auto options = units.front()->shard.options();
  unchanged_2_ = at::zeros({2}, options);
  unchanged_2_[0] = 1;
  std::vector<MatrixUnit> matrices;  // of all groups together, for their homes are planned together
  std::vector<size_t> group_of;
  for (const auto& unit : units) {
    const auto found = std::ranges::find(groups_, &unit->group(), &Group::ranks);
    const auto index = static_cast<size_t>(found - groups_.begin());
    if (found == groups_.end()) groups_.push_back({&unit->group(), {}, {}, {}});
    auto of_unit = add_part(groups_[index], *unit, config);
    if (of_unit.matrices.empty()) continue;
    matrices.push_back(std::move(of_unit));
    group_of.push_back(index);
  }
  const auto homes = plan_homes(matrices);
  for (size_t g = 0; g < groups_.size(); ++g) {
    std::vector<MatrixUnit> of_group;
    MatrixHomes homes_of_group;
    for (size_t u = 0; u < matrices.size(); ++u)
      if (group_of[u] == g) of_group.push_back(matrices[u]), homes_of_group.push_back(homes[u]);
    plan(groups_[g], of_group, homes_of_group);
  }
  std::erase_if(groups_, [](const Group& group) { return group.parts.empty(); });
}

/// Adds what is trained of a unit, if anything is, and returns its matrices.
MatrixUnit Muon::add_part(Group& group, ShardedUnit& unit, const OptimizerConfig& config) {
  const auto is_ours = [&](const std::string& name, ParamRole role) {
    const auto rule = rule_of(config, name, role);
    return rule.kind == OptimizerKind::muon && !rule.frozen;
  };
  MatrixUnit out{unit.group().size(), unit.shard.numel(), {}};
  Part part{&unit, part_of_shard(unit, is_ours), {}, {}, {}};
  for (size_t p = 0; p < unit.params().size(); ++p) {
    const auto& param = unit.params()[p];
    if (!is_ours(param.name, param.role)) continue;
    for (const auto& matrix : muon_matrices(param.shape, param.parts, config_.qkv, unit.begins()[p])) {
      out.matrices.push_back(matrix);
      part.constants.push_back(find_constants(rule_of(config, param.name, param.role),
                                              lr_factor(config_.lr_adjustment, matrix.rows, matrix.cols)));
    }
  }
  if (out.matrices.empty()) return out;
  part.momentum = at::zeros({part.shard_part.numel}, unit.shard.options());
  group.parts.push_back(std::move(part));
  return out;
}

size_t Muon::find_constants(const ParamRule& rule, double lr_factor) {
  const auto found = std::ranges::find_if(constants_, [&](const Constants& constants) {
    return constants.lr_scale == rule.lr_scale && constants.lr_factor == lr_factor &&
           constants.weight_decay == rule.weight_decay;
  });
  const auto index = static_cast<size_t>(found - constants_.begin());
  if (found == constants_.end())
    constants_.push_back({rule.lr_scale, lr_factor, rule.weight_decay, at::zeros_like(unchanged_2_)});
  return index;
}

/// Plans what this rank sends, receives and orthogonalises. `units` are those of the group's parts.
void Muon::plan(Group& group, std::span<const MatrixUnit> units, const MatrixHomes& homes) {
  if (units.empty()) return;
  group.exchange = plan_exchange(units, homes, group.ranks->rank());
  for (const auto& piece : group.exchange.sent_pieces) {
    const size_t constants = group.parts[piece.unit].constants[piece.matrix];
    auto& runs = group.parts[piece.unit].runs;
    const bool joins = !runs.empty() && runs.back().constants == constants &&
                       runs.back().in_shard + runs.back().numel == piece.in_shard &&
                       runs.back().in_buffer + runs.back().numel == piece.in_buffer;
    if (joins)
      runs.back().numel += piece.numel;
    else
      runs.push_back({piece.in_shard, piece.in_buffer, piece.numel, constants});
  }
  std::map<std::pair<size_t, size_t>, HomeMatrix> pieces;  // by unit and matrix
  for (const auto& piece : group.exchange.home_pieces) pieces[{piece.unit, piece.matrix}].push_back(piece);
  for (auto& [place, of_matrix] : pieces) {
    const auto& matrix = units[place.first].matrices[place.second];
    group.homed[{matrix.rows, matrix.cols}].push_back(std::move(of_matrix));
  }
}

void Muon::begin_step(double lr) {
  for (const auto& [lr_scale, lr_factor, weight_decay, of_step_2] : constants_) {
    const double rate = lr * lr_scale;
    send(at::tensor({1 - rate * weight_decay, rate * lr_factor}, at::kDouble).to(of_step_2.scalar_type()), of_step_2);
  }
}

void Muon::update(const at::Tensor& grad_factor) {
  Guard guard{at::isfinite(grad_factor).logical_not(), grad_factor.to(unchanged_2_.scalar_type()), {}};
  guard.decay_1 = at::full_like(guard.grad_factor_1, config_.momentum).masked_fill_(guard.not_finite_1, 1);
  for (auto& group : groups_) update(group, guard);
}

void Muon::update(Group& group, const Guard& guard) {
  const auto buffer_of = [&](const std::vector<int64_t>& counts) {
    return at::empty({std::accumulate(counts.begin(), counts.end(), int64_t{0})},
                     unchanged_2_.options().dtype(compute_dtype_));
  };
  const auto& exchange = group.exchange;
  const auto held = buffer_of(exchange.sent);
  for (const auto& part : group.parts) take_gradients(part, guard, held);
  if (group.ranks->size() == 1) {
    orthogonalise(group, held);
  } else {
    const auto homed = buffer_of(exchange.received);
    group.ranks->all_to_all(homed, held, exchange.received, exchange.sent);
    orthogonalise(group, homed);
    group.ranks->all_to_all(held, homed, exchange.sent, exchange.received);
  }
  held.masked_fill_(guard.not_finite_1, 0);
  for (const auto& part : group.parts) apply(part, guard, held);
}

/// Updates the momentum, zeroes the gradients, and writes what is to be orthogonalised to `buffer`.
void Muon::take_gradients(const Part& part, const Guard& guard, const at::Tensor& buffer) const {
  const double beta = config_.momentum;
  for (const auto& [in_shard, in_state, numel] : part.shard_part.joined) {
    const auto grad = part.unit->grad.narrow(0, in_shard, numel);
    const auto m = part.momentum.narrow(0, in_state, numel);
    const auto g = (grad * guard.grad_factor_1).masked_fill_(guard.not_finite_1, -0.0);  // x + -0.0 is x, -0.0 too
    grad.zero_();
    m.mul_(guard.decay_1).add_(g, 1 - beta);
    const auto u = config_.nesterov ? g.mul_(1 - beta).add_(m, beta) : m;
    for (const auto& run : part.runs)
      if (in_shard <= run.in_shard && run.in_shard < in_shard + numel)
        buffer.narrow(0, run.in_buffer, run.numel).copy_(u.narrow(0, run.in_shard - in_shard, run.numel));
  }
}

/// Replaces the matrices in `buffer`, whose home is this rank, by what Newton-Schulz makes of them.
void Muon::orthogonalise(const Group& group, const at::Tensor& buffer) const {
  for (const auto& [shape, matrices] : group.homed) {
    const auto [rows, cols] = shape;
    const auto at_once = static_cast<size_t>(matrices_at_once(rows, cols));
    for (size_t first = 0; first < matrices.size(); first += at_once) {
      const auto batch = std::span(matrices).subspan(first, std::min(at_once, matrices.size() - first));
      auto x_BRC = at::empty({std::ssize(batch), rows, cols}, buffer.options());
      const auto each_piece = [&](const at::Tensor& flat, const auto& copy) {
        for (size_t i = 0; i < batch.size(); ++i)
          for (const auto& piece : batch[i])
            copy(flat.narrow(0, static_cast<int64_t>(i) * rows * cols + piece.in_matrix, piece.numel),
                 buffer.narrow(0, piece.in_buffer, piece.numel));
      };
      each_piece(x_BRC.view(-1), [](const at::Tensor& of_matrix, const at::Tensor& sent) { of_matrix.copy_(sent); });
      const auto y_BRC = newton_schulz(x_BRC, newton_schulz_);
      each_piece(y_BRC.view(-1), [](const at::Tensor& of_matrix, const at::Tensor& sent) { sent.copy_(of_matrix); });
    }
  }
}

/// Updates the weights, and their rounded copies where there are any, by what is in `buffer`.
void Muon::apply(const Part& part, const Guard& guard, const at::Tensor& buffer) const {
  const auto rounded = part.unit->rounded_shard();
  for (const auto& run : part.runs) {
    const auto of_step_2 = at::where(guard.not_finite_1, unchanged_2_, constants_[run.constants].of_step_2);
    const auto w = part.unit->shard.narrow(0, run.in_shard, run.numel);
    const auto step = buffer.narrow(0, run.in_buffer, run.numel).to(w.scalar_type());  // may be the buffer itself
    w.mul_(of_step_2.narrow(0, 0, 1)).sub_(step.mul_(of_step_2.narrow(0, 1, 1)));
    if (rounded.defined()) rounded.narrow(0, run.in_shard, run.numel).copy_(w);
  }
}

std::vector<StateTensor> Muon::state() const {
  std::vector<StateTensor> out;
  for (const auto& group : groups_)
    for (const auto& part : group.parts)
      out.push_back(
          {"momentum", part.shard_part.slices, part.momentum, /*on_all_ranks=*/false, part.shard_part.params});
  return out;
}

}  // namespace olmoe

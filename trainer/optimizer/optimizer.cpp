#include "trainer/optimizer/optimizer.h"

#include <algorithm>

#include "kernels/adamw.h"
#include "parallel/collectives/host_tensor.h"

namespace olmoe {

Optimizer::Optimizer(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config)
    : units_(units), config_(config) {
  for (const auto& unit : units_) states_.push_back(make_state(*unit));
  if (config.kind == OptimizerKind::muon) muon_.emplace(units, config);
  if (config.clip_warmup_steps > 0)
    clip_norm_ = at::full({}, config.clip_norm, units_.front()->grad.options().dtype(at::kDouble));
}

/// The constants of a scale and a weight decay, made where there are none yet.
size_t Optimizer::find_constants(double lr_scale, double weight_decay) {
  const auto found = std::ranges::find_if(constants_, [&](const Constants& constants) {
    return constants.lr_scale == lr_scale && constants.weight_decay == weight_decay;
  });
  const auto index = static_cast<size_t>(found - constants_.begin());
  if (found == constants_.end())
    constants_.push_back(
        {lr_scale, weight_decay, at::zeros({kernels::kAdamWConstants}, units_.front()->shard.options())});
  return index;
}

Optimizer::UnitState Optimizer::make_state(const ShardedUnit& unit) {
  const auto rule = [&](const std::string& name, ParamRole role) { return rule_of(config_, name, role); };
  UnitState state;
  state.adamw = part_of_shard(unit, [&](const std::string& name, ParamRole role) {
    return !rule(name, role).frozen && rule(name, role).kind == OptimizerKind::adamw;
  });
  state.trained =
      part_of_shard(unit, [&](const std::string& name, ParamRole role) { return !rule(name, role).frozen; });
  state.frozen = part_of_shard(unit, [&](const std::string& name, ParamRole role) { return rule(name, role).frozen; });
  for (const auto& slice : state.adamw.slices) {
    const auto of_slice = rule(slice.name, slice.role);
    state.constants.push_back(find_constants(of_slice.lr_scale, of_slice.weight_decay));
  }
  state.exp_avg = at::zeros({state.adamw.numel}, unit.shard.options());
  state.exp_avg_sq = at::zeros({state.adamw.numel}, unit.shard.options());
  return state;
}

at::Tensor Optimizer::grad_norm(Communicator& shard) const {
  auto sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(units_.front()->grad.device()));
  for (size_t u = 0; u < units_.size(); ++u)
    for (const auto& range : states_[u].trained.joined)
      sum += kernels::squared_norm(units_[u]->grad.narrow(0, range.in_shard, range.numel));
  shard.all_reduce(sum);
  return sum.sqrt_();
}

/// Factor that clips gradients of that norm; not finite where the norm is not.
at::Tensor Optimizer::clip_factor(const at::Tensor& grad_norm) const {
  const auto one_if_finite = grad_norm * 0 + 1;
  if (config_.clip_norm <= 0) return one_if_finite;
  // Source: the 1e-6 is that of PyTorch's clip_grad_norm_. minimum() propagates NaN.
  const auto norm = grad_norm + 1e-6;
  return at::minimum(clip_norm_.defined() ? clip_norm_ / norm : config_.clip_norm / norm, one_if_finite);
}

void Optimizer::step(StepNumber step, double lr, const at::Tensor& grad_norm) {
  begin_step(step, lr);
  update(grad_norm);
}

void Optimizer::begin_step(StepNumber step, double lr) {
  for (const auto& [lr_scale, weight_decay, of_step] : constants_)
    send(kernels::adamw_constants(
             {lr * lr_scale, config_.beta1, config_.beta2, config_.eps, weight_decay, step.of_optimizer},
             of_step.scalar_type()),
         of_step);
  if (clip_norm_.defined()) send(at::full({}, config_.clip_norm_of(step.of_run), at::kDouble), clip_norm_);
  if (muon_) muon_->begin_step(lr);
}

void Optimizer::update(const at::Tensor& grad_norm) {
  const auto factor = clip_factor(grad_norm);
  const auto part_of = [](const at::Tensor& flat, int64_t begin, int64_t numel) {
    return flat.defined() ? flat.narrow(0, begin, numel) : at::Tensor();
  };
  for (size_t u = 0; u < units_.size(); ++u) {
    const auto& unit = *units_[u];
    const auto& state = states_[u];
    const auto rounded = unit.rounded_shard();  // of what is frozen it has what the last gather wrote
    for (size_t i = 0; i < state.constants.size(); ++i) {
      const auto [in_shard, in_state, numel] = state.adamw.of_slices[i];
      kernels::adamw({part_of(unit.shard, in_shard, numel), part_of(unit.grad, in_shard, numel),
                      part_of(state.exp_avg, in_state, numel), part_of(state.exp_avg_sq, in_state, numel),
                      part_of(rounded, in_shard, numel)},
                     constants_[state.constants[i]].of_step, factor);
    }
    for (const auto& range : state.frozen.joined) part_of(unit.grad, range.in_shard, range.numel).zero_();
  }
  if (muon_) muon_->update(factor);
  mark_updated();
}

void Optimizer::mark_updated() {
  for (const auto& unit : units_) unit->invalidate(unit->rounded_shard().defined());
}

std::vector<StateTensor> Optimizer::state() const {
  std::vector<StateTensor> out;
  for (size_t u = 0; u < units_.size(); ++u) {
    const auto& [adamw, constants, exp_avg, exp_avg_sq, trained, frozen] = states_[u];
    out.push_back({"weight", units_[u]->slices(), units_[u]->shard, /*on_all_ranks=*/false, units_[u]->params()});
    if (adamw.params.empty()) continue;
    out.push_back({"exp_avg", adamw.slices, exp_avg, /*on_all_ranks=*/false, adamw.params});
    out.push_back({"exp_avg_sq", adamw.slices, exp_avg_sq, /*on_all_ranks=*/false, adamw.params});
  }
  if (muon_)
    for (auto& momentum : muon_->state()) out.push_back(std::move(momentum));
  return out;
}

}  // namespace olmoe

#include "trainer/optimizer.h"

#include <algorithm>

#include "kernels/adamw.h"
#include "parallel/collectives/host_tensor.h"
#include "parallel/flat_layout.h"

namespace olmoe {

Optimizer::Optimizer(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config)
    : units_(units), config_(config) {
  for (const auto& unit : units_) parts_.push_back(trained_part(*unit));
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

Optimizer::TrainedPart Optimizer::trained_part(const ShardedUnit& unit) {
  TrainedPart part;
  std::vector<int64_t> numels;
  bool joins = false;  // the slice before is trained too
  for (const auto& slice : unit.slices()) {
    const auto rule = rule_of(config_, slice.name, slice.role);
    const Range range{slice.offset, slice.end - slice.begin};
    if (rule.frozen) {
      part.frozen.push_back(range);
    } else {
      part.moments.push_back(slice);
      part.updates.push_back(range);
      part.constants.push_back(find_constants(rule.lr_scale, rule.weight_decay));
      numels.push_back(range.numel);
      if (!joins) part.normed.push_back(range);
      part.normed.back().numel = range.begin + range.numel - part.normed.back().begin;
    }
    joins = !rule.frozen;
  }
  for (const auto& param : unit.params())
    if (!rule_of(config_, param.name, param.role).frozen) part.params.push_back(param);
  int64_t numel = unit.shard.numel();
  if (part.params.size() == unit.params().size()) {
    part.normed = {{0, numel}};
  } else {
    const auto layout = lay_out_flat(numels, /*ranks=*/1);
    for (size_t i = 0; i < numels.size(); ++i) part.moments[i].offset = layout.begins[i];
    numel = layout.numel;
  }
  part.exp_avg = at::zeros({numel}, unit.shard.options());
  part.exp_avg_sq = at::zeros({numel}, unit.shard.options());
  return part;
}

at::Tensor Optimizer::grad_norm(Communicator& shard) const {
  auto sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(units_.front()->grad.device()));
  for (size_t u = 0; u < units_.size(); ++u)
    for (const auto& [begin, numel] : parts_[u].normed)
      sum += kernels::squared_norm(units_[u]->grad.narrow(0, begin, numel));
  shard.all_reduce(sum);
  return sum.sqrt_();
}

/// Factor that clips gradients of that norm; not finite where the norm is not.
at::Tensor Optimizer::clip_factor(const at::Tensor& grad_norm) const {
  const auto one_if_finite = grad_norm * 0 + 1;
  if (config_.clip_norm <= 0) return one_if_finite;
  // Source: the 1e-6 is that of PyTorch's clip_grad_norm_. minimum() propagates NaN.
  return at::minimum(config_.clip_norm / (grad_norm + 1e-6), one_if_finite);
}

void Optimizer::step(int64_t step, double lr, const at::Tensor& grad_norm) {
  begin_step(step, lr);
  update(grad_norm);
}

void Optimizer::begin_step(int64_t step, double lr) {
  for (const auto& [lr_scale, weight_decay, of_step] : constants_)
    send(kernels::adamw_constants({lr * lr_scale, config_.beta1, config_.beta2, config_.eps, weight_decay, step},
                                  of_step.scalar_type()),
         of_step);
}

void Optimizer::update(const at::Tensor& grad_norm) {
  const auto factor = clip_factor(grad_norm);
  const auto part_of = [](const at::Tensor& flat, int64_t begin, int64_t numel) {
    return flat.defined() ? flat.narrow(0, begin, numel) : at::Tensor();
  };
  for (size_t u = 0; u < units_.size(); ++u) {
    const auto& unit = *units_[u];
    const auto& part = parts_[u];
    const auto rounded = unit.rounded_shard();  // of what is frozen it has what the last gather wrote
    for (size_t i = 0; i < part.updates.size(); ++i) {
      const auto [begin, numel] = part.updates[i];
      const int64_t moment = part.moments[i].offset;
      kernels::adamw(
          {part_of(unit.shard, begin, numel), part_of(unit.grad, begin, numel), part_of(part.exp_avg, moment, numel),
           part_of(part.exp_avg_sq, moment, numel), part_of(rounded, begin, numel)},
          constants_[part.constants[i]].of_step, factor);
    }
    for (const auto& [begin, numel] : part.frozen) part_of(unit.grad, begin, numel).zero_();
  }
  mark_updated();
}

void Optimizer::mark_updated() {
  for (const auto& unit : units_) unit->invalidate(unit->rounded_shard().defined());
}

std::vector<StateTensor> Optimizer::state() const {
  std::vector<StateTensor> out;
  for (size_t u = 0; u < units_.size(); ++u) {
    const auto& part = parts_[u];
    out.push_back({"weight", units_[u]->slices(), units_[u]->shard, /*on_all_ranks=*/false, units_[u]->params()});
    if (part.params.empty()) continue;
    out.push_back({"exp_avg", part.moments, part.exp_avg, /*on_all_ranks=*/false, part.params});
    out.push_back({"exp_avg_sq", part.moments, part.exp_avg_sq, /*on_all_ranks=*/false, part.params});
  }
  return out;
}

}  // namespace olmoe

#include "trainer/optimizer.h"

#include "kernels/adamw.h"
#include "parallel/collectives/host_tensor.h"

namespace olmoe {

Optimizer::Optimizer(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config)
    : units_(units), config_(config) {
  for (const auto& unit : units_) {
    exp_avg_.push_back(at::zeros_like(unit->shard));
    exp_avg_sq_.push_back(at::zeros_like(unit->shard));
  }
  decaying_ = at::zeros({kernels::kAdamWConstants}, units_.front()->shard.options());
  constant_ = at::zeros_like(decaying_);
}

at::Tensor Optimizer::grad_norm(Communicator& shard) const {
  auto sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(units_.front()->grad.device()));
  for (const auto& unit : units_) sum += kernels::squared_norm(unit->grad);
  shard.all_reduce(sum);
  return sum.sqrt_();
}

bool Optimizer::decays(const Slice& slice) const {
  if (slice.role == ParamRole::embedding) return config_.decay_embeddings;
  return slice.role != ParamRole::norm || config_.decay_norms;
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
  const auto upload = [&](double weight_decay, at::Tensor& constants) {
    send(kernels::adamw_constants({lr, config_.beta1, config_.beta2, config_.eps, weight_decay, step},
                                  constants.scalar_type()),
         constants);
  };
  upload(config_.weight_decay, decaying_);
  upload(0.0, constant_);
}

void Optimizer::update(const at::Tensor& grad_norm) {
  const auto factor = clip_factor(grad_norm);
  for (size_t u = 0; u < units_.size(); ++u) {
    const auto& unit = *units_[u];
    const auto rounded = unit.rounded_shard();
    for (const auto& slice : unit.slices()) {
      auto part = [&](const at::Tensor& flat) { return flat.narrow(0, slice.offset, slice.end - slice.begin); };
      kernels::adamw({part(unit.shard), part(unit.grad), part(exp_avg_[u]), part(exp_avg_sq_[u]),
                      rounded.defined() ? part(rounded) : at::Tensor()},
                     decays(slice) ? decaying_ : constant_, factor);
    }
  }
  mark_updated();
}

void Optimizer::mark_updated() {
  for (const auto& unit : units_) unit->invalidate(unit->rounded_shard().defined());
}

std::vector<StateTensor> Optimizer::state() const {
  std::vector<StateTensor> out;
  for (size_t u = 0; u < units_.size(); ++u) {
    const auto add = [&](const char* kind, const at::Tensor& flat) {
      out.push_back({kind, units_[u]->slices(), flat, /*on_all_ranks=*/false, units_[u]->params()});
    };
    add("weight", units_[u]->shard);
    add("exp_avg", exp_avg_[u]);
    add("exp_avg_sq", exp_avg_sq_[u]);
  }
  return out;
}

}  // namespace olmoe

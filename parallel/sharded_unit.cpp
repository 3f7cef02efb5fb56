#include "parallel/sharded_unit.h"

#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/error.h"
#include "parallel/flat_layout.h"

namespace olmoe {
namespace {

bool same_memory(const at::Tensor& a, const at::Tensor& b) {
  return a.data_ptr() == b.data_ptr() && a.dtype() == b.dtype() && a.numel() == b.numel();
}

}  // namespace

ShardedUnit::ShardedUnit(std::vector<UnitParam> params, Communicator& group, at::ScalarType compute_dtype,
                         at::Device device)
    : params_(std::move(params)), group_(group), compute_dtype_(compute_dtype) {
  lay_out();
  const auto master_dtype = compute_dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto options = at::TensorOptions().dtype(master_dtype).device(device);
  shard = at::zeros({flat_numel_ / group_.size()}, options);
  grad = at::zeros({flat_numel_ / group_.size()}, options);
}

/// Lays out the parameters and lists the slices of them that are in this rank's shard.
void ShardedUnit::lay_out() {
  std::vector<int64_t> numels;
  for (const UnitParam& param : params_) {
    const int64_t numel = c10::multiply_integers(param.shape);
    ENSURE(param.slot != nullptr, "parameter {} has no slot", param.name);
    ENSURE(param.first >= 0 && param.first + numel <= c10::multiply_integers(param.global_shape),
           "parameter {}: elements [{}, {}) of a global shape {}", param.name, param.first, param.first + numel,
           fmt::join(param.global_shape, "x"));
    numels.push_back(numel);
  }
  auto layout = lay_out_flat(numels, group_.size());
  begins_ = std::move(layout.begins);
  flat_numel_ = layout.numel;
  const int64_t shard_numel = flat_numel_ / group_.size(), shard_begin = group_.rank() * shard_numel;
  for (size_t i = 0; i < params_.size(); ++i) {
    const UnitParam& param = params_[i];
    const int64_t begin = std::max(begins_[i], shard_begin);
    const int64_t stop = std::min(begins_[i] + c10::multiply_integers(param.shape), shard_begin + shard_numel);
    const int64_t to_global = param.first - begins_[i];
    if (begin < stop) {
      slices_.push_back(
          {param.name, param.global_shape, begin + to_global, stop + to_global, begin - shard_begin, param.role});
    }
  }
}

void ShardedUnit::bind(PoolRange weights, PoolRange grads) {
  ENSURE(!weights_, "a unit is bound once");
  auto check = [&](const at::Tensor& flat, at::ScalarType dtype, const char* what) {
    ENSURE(flat.numel() == flat_numel_ && flat.scalar_type() == dtype && flat.device() == shard.device(),
           "{} is {} {} on {}, want {} {} on {}", what, flat.numel(), flat.dtype().name(), flat.device().str(),
           flat_numel_, c10::toString(dtype), shard.device().str());
  };
  check(weights.flat(), compute_dtype_, "weights");
  check(grads.flat(), shard.scalar_type(), "grads");
  weights_are_shard_ = same_memory(weights.flat(), shard);
  grads_are_grad_ = same_memory(grads.flat(), grad);
  weights_ = std::move(weights);
  grads_ = std::move(grads);
  for (size_t i = 0; i < params_.size(); ++i) bind_param(params_[i], begins_[i]);
}

void ShardedUnit::bind_param(const UnitParam& param, int64_t begin) const {
  auto view = [&](const at::Tensor& flat) {
    return flat.narrow(0, begin, c10::multiply_integers(param.shape)).view(param.shape).detach();
  };
  *param.slot = view(weights_->flat()).set_requires_grad(true);
  // Without this, autograd rounds an fp32 gradient of a bf16 parameter to bf16.
  param.slot->set_grad_dtype(shard.scalar_type());
  param.slot->mutable_grad() = view(grads_->flat());
}

void ShardedUnit::gather() {
  if (gathered()) return;
  // variable_data() does not bump the version counter that saved views are checked against.
  at::Tensor flat = weights_->flat().variable_data();
  weights_->claim(this);
  at::Tensor own = own_part(flat);
  if (!shard_is_rounded_) own.copy_(shard);
  group_.all_gather(flat, own);
}

void ShardedUnit::release() {
  if (weights_are_shard_ || !gathered()) return;
  weights_->release(this);
  shard_is_rounded_ = false;
#ifndef NDEBUG
  weights_->flat().variable_data().fill_(std::numeric_limits<double>::quiet_NaN());
#endif
}

bool ShardedUnit::gathered() const {
  ENSURE(weights_, "a unit is bound before it is used");
  return weights_are_shard_ || weights_->held_by(this);
}

void ShardedUnit::invalidate(bool rounded) {
  ENSURE(weights_, "a unit is bound before it is used");
  ENSURE(!rounded || rounded_shard().defined(), "there is no rounded shard to be up to date");
  weights_->release(this);
  shard_is_rounded_ = rounded;
}

at::Tensor ShardedUnit::rounded_shard() const {
  ENSURE(weights_, "a unit is bound before it is used");
  if (weights_are_shard_ || weights_->shared()) return {};
  return own_part(weights_->flat().variable_data());
}

void ShardedUnit::claim_full_grads() {
  ENSURE(grads_, "a unit is bound before it is used");
  if (grads_are_grad_ || grads_->held_by(this)) return;
  grads_->claim(this);
  for (const auto& param : params_)
    if (param.to_store != nullptr) *param.to_store = true;
  zero_added_grads();
}

/// Zeroes everything except the parameters that are stored, in ranges as long as possible.
void ShardedUnit::zero_added_grads() const {
  const auto flat = grads_->flat().variable_data();
  int64_t begin = 0;
  const auto zero_until = [&](int64_t end) {
    if (end > begin) flat.narrow(0, begin, end - begin).zero_();
  };
  for (size_t i = 0; i < params_.size(); ++i) {
    if (params_[i].to_store == nullptr) continue;
    zero_until(begins_[i]);
    begin = begins_[i] + c10::multiply_integers(params_[i].shape);
  }
  zero_until(flat_numel_);
}

void ShardedUnit::reduce_grads(const at::Tensor& buffer) {
  ENSURE(grads_, "a unit is bound before it is used");
  if (grads_are_grad_) return;
  ENSURE(grads_->held_by(this), "the full gradients of {} were not claimed, or another unit took their buffer",
         params_.empty() ? "an empty unit" : params_.front().name);
  for (const auto& param : params_)
    ENSURE(param.to_store == nullptr || !*param.to_store, "the gradient of {} was never stored", param.name);
  // Only this rank reads its part of the full gradients: the sum goes there.
  at::Tensor full = grads_->flat().variable_data();
  at::Tensor sum = own_part(full);
  if (buffer.defined())
    group_.reduce_scatter(sum, buffer.narrow(0, 0, flat_numel_).copy_(full));
  else
    group_.reduce_scatter(sum, full);
  grad.add_(sum);
  grads_->release(this);
}

at::Tensor ShardedUnit::own_part(const at::Tensor& flat) const {
  return flat.narrow(0, group_.rank() * shard.numel(), shard.numel());
}

}  // namespace olmoe

#include "parallel/gather_pool.h"

#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace olmoe {

PoolRange::PoolRange(at::Tensor flat) : PoolRange(std::move(flat), 0, std::make_shared<Owners>()) { shared_ = false; }

PoolRange::PoolRange(at::Tensor flat, int64_t begin, std::shared_ptr<Owners> owners)
    : flat_(std::move(flat)), begin_(begin), owners_(std::move(owners)) {
  ENSURE(flat_.dim() == 1 && flat_.is_contiguous(), "a pool is flat, this tensor is {} with strides {}",
         fmt::join(flat_.sizes(), "x"), fmt::join(flat_.strides(), ","));
}

void PoolRange::claim(const void* owner) {
  const int64_t end = begin_ + flat_.numel();
  std::erase_if(*owners_, [&](const Ownership& o) { return o.begin < end && begin_ < o.end; });
  owners_->push_back({begin_, end, owner});
}

bool PoolRange::held_by(const void* owner) const {
  return std::ranges::any_of(*owners_, [&](const Ownership& o) { return o.owner == owner; });
}

void PoolRange::release(const void* owner) {
  std::erase_if(*owners_, [&](const Ownership& o) { return o.owner == owner; });
}

GatherPool::GatherPool(int64_t numel, at::ScalarType dtype, at::Device device)
    : GatherPool(at::zeros({numel}, at::TensorOptions().dtype(dtype).device(device))) {}

GatherPool::GatherPool(at::Tensor flat) : flat_(std::move(flat)), owners_(std::make_shared<PoolRange::Owners>()) {}

PoolRange GatherPool::range(int64_t begin, int64_t numel) const {
  ENSURE(begin >= 0 && numel >= 0 && begin + numel <= flat_.numel(), "range [{}, {}) of a pool of {} elements", begin,
         begin + numel, flat_.numel());
  return PoolRange(flat_.narrow(0, begin, numel), begin, owners_);
}

}  // namespace olmoe

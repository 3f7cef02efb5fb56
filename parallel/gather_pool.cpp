#include "parallel/gather_pool.h"

#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace olmoe {

PoolRange::PoolRange(at::Tensor flat) : PoolRange(std::move(flat), 0, std::make_shared<Tenancies>()) {
  shared_ = false;
}

PoolRange::PoolRange(at::Tensor flat, int64_t begin, std::shared_ptr<Tenancies> tenancies)
    : flat_(std::move(flat)), begin_(begin), tenancies_(std::move(tenancies)) {
  ENSURE(flat_.dim() == 1 && flat_.is_contiguous(), "a pool is flat, this tensor is {} with strides {}",
         fmt::join(flat_.sizes(), "x"), fmt::join(flat_.strides(), ","));
}

void PoolRange::claim(const void* tenant) {
  const int64_t end = begin_ + flat_.numel();
  std::erase_if(*tenancies_, [&](const Tenancy& t) { return t.begin < end && begin_ < t.end; });
  tenancies_->push_back({begin_, end, tenant});
}

bool PoolRange::held_by(const void* tenant) const {
  return std::ranges::any_of(*tenancies_, [&](const Tenancy& t) { return t.tenant == tenant; });
}

void PoolRange::vacate(const void* tenant) {
  std::erase_if(*tenancies_, [&](const Tenancy& t) { return t.tenant == tenant; });
}

GatherPool::GatherPool(int64_t numel, at::ScalarType dtype, at::Device device)
    : GatherPool(at::zeros({numel}, at::TensorOptions().dtype(dtype).device(device))) {}

GatherPool::GatherPool(at::Tensor flat)
    : flat_(std::move(flat)), tenancies_(std::make_shared<PoolRange::Tenancies>()) {}

PoolRange GatherPool::range(int64_t begin, int64_t numel) const {
  ENSURE(begin >= 0 && numel >= 0 && begin + numel <= flat_.numel(), "range [{}, {}) of a pool of {} elements", begin,
         begin + numel, flat_.numel());
  return PoolRange(flat_.narrow(0, begin, numel), begin, tenancies_);
}

}  // namespace olmoe

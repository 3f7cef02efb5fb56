#include "trainer/checkpoint/state_snapshot.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <exception>

#include "core/error.h"

namespace olmoe {

StateSnapshot::StateSnapshot(c10::Device device) : device_(device), stream_(device, Overlap::yes) {}

void StateSnapshot::reserve(std::span<const StateTensor> state) {
  copy_.resize(state.size());
  for (size_t i = 0; i < state.size(); ++i) {
    const auto& flat = state[i].flat;
    ENSURE(flat.dim() == 1 && flat.is_contiguous() && flat.device().type() == device_.type(),
           "{} is not flat, or not on {}", state[i].kind, device_.str());
    auto memory = copy_[i].flat;
    if (!memory.defined() || memory.numel() != flat.numel() || memory.scalar_type() != flat.scalar_type())
      memory = at::empty(flat.sizes(), flat.options().device(at::kCPU).pinned_memory(flat.is_cuda())).zero_();
    copy_[i] = state[i];
    copy_[i].flat = std::move(memory);
  }
}

void StateSnapshot::begin(std::span<const StateTensor> state) {
  copied_ = {};
  copied_on_cpu_ = copied_.get_future();
  reserve(state);
  source_.assign(state.begin(), state.end());
  if (device_.is_cpu()) return;
  stream_.run([&] {
    for (size_t i = 0; i < state.size(); ++i) copy_[i].flat.copy_(state[i].flat.detach(), /*non_blocking=*/true);
  });
  copied_on_gpu_ = stream_.mark();
}

void StateSnapshot::wait_until_copied() {
  if (!device_.is_cpu())
    stream_.wait();
  else if (copied_on_cpu_.valid())
    copied_on_cpu_.get();
}

std::span<const StateTensor> StateSnapshot::complete() {
  try {
    if (copied_on_gpu_) copied_on_gpu_->synchronize();
    if (device_.is_cpu())
      for (size_t i = 0; i < copy_.size(); ++i)
        std::memcpy(copy_[i].flat.mutable_data_ptr(), source_[i].flat.const_data_ptr(), copy_[i].flat.nbytes());
  } catch (...) {
    copied_.set_exception(std::current_exception());
    throw;
  }
  source_.clear();
  copied_.set_value();
  return copy_;
}

}  // namespace olmoe

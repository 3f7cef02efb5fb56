#include "parallel/collectives/host_tensor.h"

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "parallel/collectives/host_wait.h"

namespace olmoe {
namespace {

at::Tensor pinned_copy(const at::Tensor& tensor) {
  const auto options = tensor.options().device(at::kCPU).pinned_memory(true).requires_grad(false);
  return at::empty(tensor.sizes(), options).copy_(tensor.detach());
}

}  // namespace

HostTensor::HostTensor(const at::Tensor& tensor)
    : tensor_(tensor), host_(tensor.is_cpu() ? tensor : pinned_copy(tensor)) {}

void send(const at::Tensor& host, const at::Tensor& to) {
  // The allocator of pinned memory does not reuse a block before the copies that read it are done.
  to.copy_(to.is_cpu() ? host : host.pin_memory(), /*non_blocking=*/true);
}

at::Tensor fetch(const at::Tensor& tensor, Communicator& ranks) {
  if (tensor.is_cpu()) return tensor;
  at::Tensor host = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
  host.copy_(tensor, /*non_blocking=*/true);
  const auto device = tensor.device();
  c10::Event done(device.type());
  done.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  wait_until([&] { return done.query(); }, ranks);
  return host;
}

void HostTensor::copy_back() {
  if (!tensor_.is_cpu()) tensor_.detach().copy_(host_);
}

}  // namespace olmoe

#include "parallel/host_tensor.h"

#include <ATen/ops/empty.h>

namespace olmoe {
namespace {

at::Tensor pinned_copy(const at::Tensor& tensor) {
  const auto options = tensor.options().device(at::kCPU).pinned_memory(true).requires_grad(false);
  return at::empty(tensor.sizes(), options).copy_(tensor.detach());
}

}  // namespace

HostTensor::HostTensor(const at::Tensor& tensor)
    : tensor_(tensor), host_(tensor.is_cpu() ? tensor : pinned_copy(tensor)) {}

void HostTensor::copy_back() {
  if (!tensor_.is_cpu()) tensor_.detach().copy_(host_);
}

}  // namespace olmoe

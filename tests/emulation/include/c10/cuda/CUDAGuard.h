#pragma once
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

namespace c10::cuda {

struct CUDAGuard {
  explicit CUDAGuard(Device device) { TORCH_CHECK(device.is_cuda(), "a kernel is launched for ", device); }
};

}  // namespace c10::cuda

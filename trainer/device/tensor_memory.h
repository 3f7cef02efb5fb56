// Bytes that tensors of this process take, as their allocators count them: what a plan of memory is held against.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace olmoe::tensor_memory {

/// From now on counts tensors in host memory; one made before is never counted. A GPU's allocator counts by itself.
void count_host();
/// What tensors of `device` take now; nothing where it is the CPU and count_host() was not called.
std::optional<int64_t> bytes(at::Device device);
/// The most that they took at one time since the start, or since forget_peak().
std::optional<int64_t> peak_bytes(at::Device device);
void forget_peak(at::Device device);

}  // namespace olmoe::tensor_memory

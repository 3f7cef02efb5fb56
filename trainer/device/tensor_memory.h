// Bytes of this process's tensors, as their allocators count them, to compare with the memory plan.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace olmoe::tensor_memory {

/// Starts to count tensors in host memory; those made before are not counted. A GPU's allocator always counts.
void count_host();
/// Bytes of `device`'s tensors now; none on a CPU without count_host().
std::optional<int64_t> bytes(at::Device device);
/// Peak of these bytes since the start or reset_peak().
std::optional<int64_t> peak_bytes(at::Device device);
void reset_peak(at::Device device);

}  // namespace olmoe::tensor_memory

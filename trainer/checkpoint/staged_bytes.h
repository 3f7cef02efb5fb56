#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <span>

namespace olmoe {

/// Copies tensors to the host piece by piece, through one shared staging buffer, which is pinned for tensors on a GPU.
class StagedBytes {
 public:
  using Take = std::function<void(std::span<const std::byte>)>;
  explicit StagedBytes(int64_t piece_bytes);
  /// Calls `take` with the bytes of a flat, contiguous tensor of any dtype, in order, at most piece_bytes at a time;
  /// the bytes are valid until `take` returns. Waits for the device. Throws Error for a tensor that is not flat and
  /// contiguous.
  void read(const at::Tensor& flat, const Take& take);

 private:
  int64_t piece_bytes_;
  at::Tensor piece_;  // bytes; allocated for the first tensor
};

}  // namespace olmoe

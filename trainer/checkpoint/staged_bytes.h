#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <span>

namespace olmoe {

/// Brings the bytes of tensors to one who takes them piece by piece, through one piece of host memory that all of them
/// share: pinned where they lie on a GPU.
class StagedBytes {
 public:
  using Take = std::function<void(std::span<const std::byte>)>;
  explicit StagedBytes(int64_t piece_bytes);
  /// `take` gets all bytes of a flat, contiguous tensor in order, at most piece_bytes at once; they are gone when it
  /// returns. Waits for the device.
  void read(const at::Tensor& flat, const Take& take);

 private:
  int64_t piece_bytes_;
  at::Tensor piece_;  // bytes; made for the first tensor
};

}  // namespace olmoe

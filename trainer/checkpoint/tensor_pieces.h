#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/files/safetensors.h"

namespace olmoe {

/// Pieces of flattened parameters, in memory or mapped files, from which any range can be read: so a layout can read
/// the checkpoint of another, and Hugging Face's per-expert tensors fill our stacked ones.
class TensorPieces {
 public:
  /// Elements [first, first + bytes / size(dtype)) of parameter `name`. The bytes must outlive this object.
  /// Throws CheckpointError for a dtype that is not a floating-point type.
  void add(const std::string& name, int64_t first, safetensors::Dtype dtype, std::span<const std::byte> bytes);
  /// Copies elements [begin, begin + out.numel()) to `out`, converted to its dtype. Throws CheckpointError where some
  /// are missing.
  void read(const std::string& name, int64_t begin, at::Tensor out) const;
  bool contains(const std::string& name) const { return pieces_.count(name) != 0; }

 private:
  struct Piece {
    int64_t first, numel;
    at::ScalarType dtype;
    std::span<const std::byte> bytes;
  };
  std::map<std::string, std::map<int64_t, Piece>> pieces_;  // by parameter, then by first element
};

}  // namespace olmoe

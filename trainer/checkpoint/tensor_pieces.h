#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/files/safetensors.h"

namespace olmoe {

/// The dtype of tensors for one in which a file may hold weights: f64, f32, bf16, f16. None for others.
std::optional<at::ScalarType> weight_dtype(safetensors::Dtype dtype);

/// Pieces of flattened parameters, in memory or mapped files, from which any range can be read: so a layout can read
/// the checkpoint of another, and Hugging Face's per-expert tensors fill our stacked ones.
class TensorPieces {
 public:
  /// Copies bytes of a piece to `out`, which is as long.
  using Fetch = std::function<void(std::span<const std::byte> bytes, std::span<std::byte> out)>;
  /// Elements [first, first + bytes / size(dtype)) of parameter `name`. The bytes must outlive this object.
  /// Throws CheckpointError for a dtype that is not a floating-point type, and where a piece begins there already.
  void add(const std::string& name, int64_t first, safetensors::Dtype dtype, std::span<const std::byte> bytes);
  /// Copies elements [begin, begin + out.numel()) to `out`, a contiguous tensor on a CPU, converted to its dtype. Bytes
  /// are fetched in the order of the elements. Throws CheckpointError where some are missing, and what `fetch` throws.
  void read(const std::string& name, int64_t begin, const at::Tensor& out, const Fetch& fetch = copy) const;
  bool contains(const std::string& name) const { return pieces_.count(name) != 0; }
  /// Elements of each parameter. Throws CheckpointError, naming it, unless its pieces cover elements 0 to the last
  /// exactly once.
  std::map<std::string, int64_t> sizes() const;

 private:
  struct Piece {
    int64_t first, numel;
    at::ScalarType dtype;
    std::span<const std::byte> bytes;
  };
  static void copy(std::span<const std::byte> bytes, std::span<std::byte> out);

  std::map<std::string, std::map<int64_t, Piece>> pieces_;  // by parameter, then by first element
};

}  // namespace olmoe

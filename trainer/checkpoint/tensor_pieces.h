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
  /// Elements [first, first + bytes / size(dtype)) of parameter `name`. The bytes must outlive this object.
  /// Throws CheckpointError for a dtype that is not a floating-point type, and where a piece begins there already.
  void add(const std::string& name, int64_t first, safetensors::Dtype dtype, std::span<const std::byte> bytes);
  /// Copies elements [begin, begin + out.numel()) to `out`, converted to its dtype. Throws CheckpointError where some
  /// are missing.
  void read(const std::string& name, int64_t begin, at::Tensor out) const;
  /// Calls `visit` with the bytes of each piece that hold elements [begin, end), in order. Throws like read().
  void visit(const std::string& name, int64_t begin, int64_t end,
             const std::function<void(std::span<const std::byte>)>& visit) const;
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
  template <class Use>
  void walk(const std::string& name, int64_t begin, int64_t end, const Use& use) const;

  std::map<std::string, std::map<int64_t, Piece>> pieces_;  // by parameter, then by first element
};

}  // namespace olmoe

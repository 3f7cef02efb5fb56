#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace olmoe {

/// Where the parameters of a unit lie in its flat buffers.
struct FlatLayout {
  std::vector<int64_t> begins;  ///< of each parameter, in elements
  int64_t numel;                ///< of the whole unit, padding included
};

/// Lays parameters of `numels` elements one behind the other, each at a multiple of 256 bytes, and pads the end so that
/// each of `ranks` equal slices begins at one too.
FlatLayout lay_out_flat(std::span<const int64_t> numels, int64_t ranks);

}  // namespace olmoe

#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace olmoe {

/// Where the parameters of a unit are in its flat buffers.
struct FlatLayout {
  std::vector<int64_t> begins;  ///< of each parameter, in elements
  int64_t numel;                ///< of the whole unit, padding included
};

/// Places parameters of `numels` elements one after another, each at a multiple of 128 elements (256 bytes of
/// bfloat16), and pads the end so that each of `ranks` equal shards begins at such a multiple too.
FlatLayout lay_out_flat(std::span<const int64_t> numels, int64_t ranks);

}  // namespace olmoe

#include "parallel/flat_layout.h"

#include "core/integers.h"

namespace olmoe {
namespace {

// 256 bytes of bfloat16; wider types start at a multiple of that. One number for all dtypes keeps the layout, and so
// the shard, independent of the compute dtype.
constexpr int64_t kAlign = 128;

}  // namespace

FlatLayout lay_out_flat(std::span<const int64_t> numels, int64_t ranks) {
  FlatLayout out{{}, 0};
  for (const int64_t numel : numels) {
    out.begins.push_back(out.numel);
    out.numel = round_up(out.numel + numel, kAlign);
  }
  out.numel = round_up(out.numel, kAlign * ranks);
  return out;
}

}  // namespace olmoe

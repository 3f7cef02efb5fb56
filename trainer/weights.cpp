#include "trainer/weights.h"

namespace olmoe {

void fill_weights(std::span<const std::unique_ptr<ShardedUnit>> units, const ParamSource& source) {
  for (const auto& unit : units) {
    for (const auto& slice : unit->slices()) {
      auto part = at::empty({slice.end - slice.begin}, unit->shard.options().device(at::kCPU));
      source(slice.name, slice.begin, part);
      unit->shard.narrow(0, slice.offset, part.numel()).copy_(part);
    }
    unit->invalidate();
  }
}

}  // namespace olmoe

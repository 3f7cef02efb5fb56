#include "trainer/generation/kv_cache.h"

#include <ATen/ops/empty.h>

#include "core/error.h"

namespace olmoe {

KvCache::KvCache(const ModelConfig& config, int64_t sequences, int64_t positions, at::ScalarType dtype)
    : positions_(positions), lengths_(static_cast<size_t>(sequences), 0) {
  for (const auto& block : config.blocks()) {
    const auto make = [&, heads = block.attention.num_kv_heads, width = block.attention.head_dim] {
      return at::empty({sequences, heads, positions, width}, at::TensorOptions().dtype(dtype));
    };
    blocks_.push_back({make(), make()});
  }
}

void KvCache::advance(std::span<const kernels::CachedRun> runs) {
  for (const auto& run : runs) {
    auto& length = lengths_.at(static_cast<size_t>(run.sequence));
    ENSURE(run.first == length && run.first + run.count <= positions_,
           "tokens {} to {} of sequence {} do not follow the {} in a cache of {}", run.first, run.first + run.count - 1,
           run.sequence, length, positions_);
    length += run.count;
  }
}

int64_t KvCache::size_bytes() const {
  int64_t out = 0;
  for (const auto& block : blocks_) out += static_cast<int64_t>(block.k_BGSd.nbytes() + block.v_BGSd.nbytes());
  return out;
}

}  // namespace olmoe

// Shapes: B sequences of at most S tokens, L blocks, G key/value heads of width d.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "kernels/cached_attention.h"
#include "model/config.h"

namespace olmoe {

/// Keys and values of all blocks for the tokens so far of B sequences: of each block two tensors [B, G, S, d] in the
/// compute dtype, keys rotated. Blocks with windows hold all positions too.
class KvCache {
 public:
  KvCache(const ModelConfig& config, int64_t sequences, int64_t positions, at::ScalarType dtype);
  const kernels::KeyValues& block(size_t index) const { return blocks_.at(index); }
  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t positions() const { return positions_; }
  /// Tokens of a sequence that are stored.
  int64_t length(int64_t sequence) const { return lengths_.at(static_cast<size_t>(sequence)); }
  /// The tokens of `runs`, which follow those that are stored, were stored by every block. Throws Error for others.
  void advance(std::span<const kernels::CachedRun> runs);
  /// 2 L B G S d values.
  int64_t size_bytes() const;

 private:
  int64_t positions_;
  std::vector<kernels::KeyValues> blocks_;
  std::vector<int64_t> lengths_;
};

}  // namespace olmoe

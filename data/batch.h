#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace olmoe {

/// A micro-batch of B sequences of S tokens. B is 0 on a rank without sequences in an accumulation step: it still takes
/// part in every collective.
struct Batch {
  at::Tensor ids_BS;        ///< int64 [B, S]
  at::Tensor targets_BS;    ///< int64 [B, S]: the next id; kIgnoredTarget (-100) at the last position, and in all of a
                            ///< masked sequence
  int64_t num_targets = 0;  ///< positions with a next id, B (S - 1): those of masked sequences too
  int64_t num_masked = 0;   ///< masked sequences
  /// Where attention stays within documents, their cumulative lengths over the tokens in order: int32 [n+1], 0 to B*S;
  /// a sequence ends the document in it. Undefined: attention sees whole sequences.
  at::Tensor bounds = {};
  at::Tensor bounds_cpu = {};  ///< the same on the CPU
  /// Experts of a routing record, which layers take in place of their own choice: int32 [L, B*S, K], L layers with
  /// experts. Undefined: they choose.
  at::Tensor experts_LNK = {};
};

/// Log-probabilities that are asked of a batch, C of them: each of an id after the tokens up to a position. Several may
/// share a position.
struct Candidates {
  at::Tensor positions_C;  ///< int64, in the flattened [B*S]
  at::Tensor ids_C;        ///< int64
};

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace olmoe {

/// A micro-batch of B sequences of S tokens. B may be 0: a rank without work still makes every
/// collective.
struct Batch {
  at::Tensor ids_BS;        ///< int64 [B, S]
  at::Tensor targets_BS;    ///< int64 [B, S]: the next id; kIgnoredTarget (-100) at the last position
  int64_t num_targets = 0;  ///< targets that count
};

}  // namespace olmoe

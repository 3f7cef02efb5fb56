#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace olmoe {

/// A micro-batch of B sequences of S tokens. B is 0 on a rank without sequences in an accumulation step: it still takes
/// part in every collective.
struct Batch {
  at::Tensor ids_BS;        ///< int64 [B, S]
  at::Tensor targets_BS;    ///< int64 [B, S]: the next id; kIgnoredTarget (-100) at the last position
  int64_t num_targets = 0;  ///< targets other than kIgnoredTarget
};

}  // namespace olmoe

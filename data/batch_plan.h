#pragma once
#include <cstdint>

namespace olmoe {

/// How the global batch is divided into micro-batches, independently of the number of ranks. Micro-batch m goes to rank
/// m mod `ranks`, which computes it in accumulation step m / `ranks`.
struct BatchPlan {
  int64_t global_batch;  ///< sequences of an optimizer step
  int64_t micro_batch;   ///< sequences of a micro-batch; the last one may be smaller
  int64_t ranks;

  struct Sequences {
    int64_t first, count;  ///< within the global batch
  };
  int64_t micro_batches() const;  ///< of all ranks
  /// Accumulation steps of an optimizer step, the same on all ranks: ceil(micro_batches() / ranks).
  int64_t accumulation_steps() const;
  /// The sequences of `rank` in an accumulation step; count 0 beyond the last micro-batch.
  Sequences sequences_of(int64_t rank, int64_t accumulation_step) const;
};

}  // namespace olmoe

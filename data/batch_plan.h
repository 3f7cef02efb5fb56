#pragma once
#include <cstdint>

namespace olmoe {

/// How the sequences of a step are divided: into micro-batches, independently of the number of ranks. Micro-batch m
/// goes to rank m mod `ranks`, which computes it in its accumulation step m / `ranks`.
struct BatchPlan {
  int64_t global_batch;  ///< sequences of a step
  int64_t micro_batch;   ///< sequences of a micro-batch; the last one may be smaller
  int64_t ranks;

  struct Sequences {
    int64_t first, count;  ///< within the step
  };
  int64_t micro_batches() const;  ///< of all ranks
  /// Micro-batches of the busiest rank: every rank makes as many passes.
  int64_t accumulation_steps() const;
  /// What `rank` computes in one of its accumulation steps; none beyond the last micro-batch.
  Sequences sequences_of(int64_t rank, int64_t accumulation_step) const;
};

}  // namespace olmoe

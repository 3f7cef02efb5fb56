#pragma once
#include <cstdint>
#include <vector>

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

/// Another global batch, for the steps up to one (train.batch_size_warmup).
struct BatchPhase {
  int64_t until_step = 0;
  int64_t global_batch_size = 0;

  template <class V>
  void fields(V& v) {
    v.required("until_step", until_step, {1}, "last step of the phase, which begins after the one before");
    v.required("global_batch_size", global_batch_size, {1},
               "sequences of each of its steps, at most as many as in the phase after it");
  }
};

/// Sequences of each optimizer step, counted from 1. Step s takes positions [until(s - 1), until(s)) of the stream.
class BatchSizes {
 public:
  /// `warmup`: phases whose last steps rise, before steps of `global_batch` sequences. Not explicit: a number alone is
  /// a run without a warm-up.
  BatchSizes(int64_t global_batch, std::vector<BatchPhase> warmup = {});
  int64_t of_step(int64_t step) const;
  /// Of steps 1 to `step` together; 0 for step 0.
  int64_t until(int64_t step) const;
  /// The step that takes position `position` >= 0 of the stream.
  int64_t step_of(int64_t position) const;

 private:
  int64_t global_batch_;
  std::vector<BatchPhase> warmup_;
};

}  // namespace olmoe

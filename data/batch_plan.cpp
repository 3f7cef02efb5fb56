#include "data/batch_plan.h"

#include <algorithm>
#include <utility>

#include "core/integers.h"

namespace olmoe {

int64_t BatchPlan::micro_batches() const { return ceil_div(global_batch, micro_batch); }

int64_t BatchPlan::accumulation_steps() const { return ceil_div(micro_batches(), ranks); }

BatchPlan::Sequences BatchPlan::sequences_of(int64_t rank, int64_t accumulation_step) const {
  const int64_t first = std::min((accumulation_step * ranks + rank) * micro_batch, global_batch);
  return {first, std::min(micro_batch, global_batch - first)};
}

BatchSizes::BatchSizes(int64_t global_batch, std::vector<BatchPhase> warmup)
    : global_batch_(global_batch), warmup_(std::move(warmup)) {}

int64_t BatchSizes::of_step(int64_t step) const {
  const auto phase = std::ranges::find_if(warmup_, [&](const BatchPhase& one) { return step <= one.until_step; });
  return phase == warmup_.end() ? global_batch_ : phase->global_batch_size;
}

int64_t BatchSizes::until(int64_t step) const {
  int64_t sequences = 0, done = 0;
  for (const auto& [until_step, global_batch] : warmup_) {
    if (step <= until_step) return sequences + (step - done) * global_batch;
    sequences += (until_step - done) * global_batch;
    done = until_step;
  }
  return sequences + (step - done) * global_batch_;
}

int64_t BatchSizes::step_of(int64_t position) const {
  int64_t begin = 0, done = 0;
  for (const auto& [until_step, global_batch] : warmup_) {
    const int64_t end = begin + (until_step - done) * global_batch;
    if (position < end) return done + (position - begin) / global_batch + 1;
    begin = end;
    done = until_step;
  }
  return done + (position - begin) / global_batch_ + 1;
}

}  // namespace olmoe

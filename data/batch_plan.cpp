#include "data/batch_plan.h"

#include <algorithm>

#include "core/integers.h"

namespace olmoe {

int64_t BatchPlan::micro_batches() const { return ceil_div(global_batch, micro_batch); }

int64_t BatchPlan::accumulation_steps() const { return ceil_div(micro_batches(), ranks); }

BatchPlan::Sequences BatchPlan::sequences_of(int64_t rank, int64_t accumulation_step) const {
  const int64_t first = std::min((accumulation_step * ranks + rank) * micro_batch, global_batch);
  return {first, std::min(micro_batch, global_batch - first)};
}

}  // namespace olmoe

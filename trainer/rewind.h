#pragma once
#include <cstdint>
#include <functional>

#include "data/data_loader.h"
#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/checkpointer.h"
#include "trainer/job/resolved_run.h"

namespace olmoe {

/// checkpoint.resume=STEP: goes back to the checkpoint of `step`. Later checkpoints are renamed to NAME.abandoned-1 and
/// the metrics so far are copied to metrics.jsonl.abandoned-1, once `ensure_leased` has returned. Returns the step to
/// resume from: `step`, or the newest one where a run has gone back to `step` already, with the same data.skip so far.
/// Throws CheckpointError, without any change, where there is no such checkpoint or it is of another run. Collective.
int64_t rewind(const Checkpointer& checkpointer, int64_t step, const ResolvedRun& run, const SequenceSource& source,
               Communicator& world, const std::function<void()>& ensure_leased);

}  // namespace olmoe

#pragma once
#include <cstdint>
#include <string>

#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/checkpointer.h"
#include "trainer/job/resolved_run.h"

namespace olmoe {

/// Whether a run that has gone back as `config` asks for wrote the checkpoint in `folder`: it has the same
/// checkpoint.resume, and took the sequences that `config` gives (data.skip). False for one whose config this version
/// cannot read.
bool has_gone_back(const Manifest& manifest, const std::string& folder, const Config& config, UnknownKeys unknown);

/// checkpoint.resume=STEP. Whether the run must go back to the checkpoint of `step`: there are later ones, and the
/// newest that can be read is not of a run that has gone back. Throws CheckpointError where
/// there is no such checkpoint. Writes nothing. Collective over world.
bool goes_back(const Checkpointer& checkpointer, int64_t step, const ResolvedRun& run, Communicator& world);

/// Once the checkpoint of `step` is loaded: renames later ones, and weights that stayed of them, to NAME.abandoned-1,
/// and copies the metrics so far to metrics.jsonl.abandoned-1. Throws CheckpointError. Collective over world.
void abandon_later(const Checkpointer& checkpointer, int64_t step, const std::string& run_folder, Communicator& world);

}  // namespace olmoe

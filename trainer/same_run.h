#pragma once
#include <cstdint>
#include <string>

#include "data/data_loader.h"
#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/config/config.h"

namespace olmoe {

/// Throws CheckpointError unless a run of `config` and `source` goes on with the model and the data of the checkpoint
/// in `folder`. Keys that its state does not depend on may differ: they are logged, and so is what
/// read_manifest_config() leaves out.
void check_same_run(const Manifest& manifest, const std::string& folder, const Config& config,
                    const SequenceSource& source, const Communicator& world, UnknownKeys unknown);

/// Why a run with data.skip of `now` cannot have trained on the `consumed` sequences that one of `before` trained on;
/// empty if it can. Of runs that are alike but for that.
std::string skip_problem(const Config& before, const Config& now, int64_t consumed);

}  // namespace olmoe

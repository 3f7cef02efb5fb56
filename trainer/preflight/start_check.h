#pragma once
#include "parallel/collectives/communicator.h"
#include "trainer/job/resolved_run.h"

namespace olmoe {

/// Call before anything large is allocated. Throws ConfigError on all ranks for badly placed ranks (check_placement), a
/// memory plan that cannot fit, and a disk smaller than a checkpoint. Rank 0 logs the plan with the free memory and
/// start_notices(); the first rank of any other machine warns where memory is short. Collective over world.
void check_start(const ResolvedRun& run, Communicator& world);

}  // namespace olmoe

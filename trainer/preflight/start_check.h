#pragma once
#include "parallel/collectives/communicator.h"
#include "trainer/job/resolved_run.h"

namespace olmoe {

/// Before anything large is allocated: refuses ranks that lie badly over hosts (check_placement) and a plan of memory
/// that cannot fit where they compute, and a disk that holds no checkpoint; logs, on rank 0, the plan beside what is
/// free and start_notices(). On other machines the first rank warns where memory is short. Throws ConfigError on all
/// ranks. Collective over world.
void check_start(const ResolvedRun& run, Communicator& world);

}  // namespace olmoe

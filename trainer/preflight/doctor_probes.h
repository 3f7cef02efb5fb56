#pragma once
#include <optional>
#include <vector>

#include "core/process/machine.h"
#include "parallel/collectives/communicator.h"
#include "trainer/job/resolved_run.h"
#include "trainer/preflight/doctor.h"

namespace olmoe {

/// Measures and the results of all ranks; equal on all ranks.
struct Examination {
  std::vector<Measure> measures;
  std::vector<RankReport> ranks;
};

/// Measures on all ranks at once, in the compute dtype on the config's device: a GEMM, a copy, a file in run.folder (or
/// its nearest existing parent), and the collectives of each mesh axis of more than one rank. A probe that fails on a
/// rank is a problem of it, and so are memory that the plan exceeds and a disk smaller than a checkpoint. `slow_below`
/// replaces the share of the median below which a rank is slow, of every measure. Collective over world.
Examination examine(const ResolvedRun& run, Communicator& world, std::optional<double> slow_below,
                    const SystemView& system = {});

}  // namespace olmoe

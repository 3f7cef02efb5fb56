#pragma once
#include <optional>
#include <vector>

#include "core/process/machine.h"
#include "parallel/collectives/communicator.h"
#include "trainer/job/resolved_run.h"
#include "trainer/preflight/doctor.h"

namespace olmoe {

/// What is measured on the ranks of a config's mesh, and what each rank found; the same on all of them.
struct Examination {
  std::vector<Measure> measures;
  std::vector<RankReport> ranks;
};

/// Measures on all ranks at once, as in `run`: a product, a copy, a file in run.folder (or the folder above that is
/// there), and the collectives of each mesh axis of more than one rank, in the compute dtype on the config's device.
/// A probe of its own that fails is a rank's problem, and so is memory too small for the plan. `slow_below` replaces
/// the share of each measure below which a rank is slow. Collective over world.
Examination examine(const ResolvedRun& run, Communicator& world, std::optional<double> slow_below,
                    const SystemView& system = {});

}  // namespace olmoe

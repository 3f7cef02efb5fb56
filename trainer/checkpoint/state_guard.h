#pragma once
#include <span>
#include <string>

#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// The guard of all trained state: nothing that is not finite may be committed, or trained on. Throws an Error with
/// ExitCode::non_finite on all ranks alike: `what` (a step, a folder), the first value found with its parameter and
/// element, `advice`. Float64 values of 1e150 and more count as well. One pass over each rank's own shards and one
/// small exchange. Collective over world.
void ensure_finite(Communicator& world, std::span<const StateTensor> state, const std::string& what,
                   const std::string& advice);

}  // namespace olmoe

#pragma once
#include <span>
#include <string>

#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// Throws an Error with ExitCode::non_finite, the same on all ranks, where a value of the trained state is not finite:
/// `what` (a step, a folder), the first such value with its parameter and element, and `advice`. Float64 values of
/// 1e150 and more count as not finite. `state`: flat tensors, fp32 or float64. Reads each rank's own shards once, and
/// makes one small all-gather. Collective over world.
void ensure_finite(Communicator& world, std::span<const StateTensor> state, const std::string& what,
                   const std::string& advice);

}  // namespace olmoe

#pragma once
#include <span>
#include <string>

#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// What to do where a run's own state is not finite.
inline constexpr const char* kDivergedAdvice =
    "Nothing was saved, and earlier checkpoints stay. The run diverged: start it again with a lower optimizer.lr, and "
    "it resumes from the newest of them";

/// Throws an Error with ExitCode::non_finite, the same on all ranks, where a value of the trained state is not finite:
/// `what` (a step, a folder), the first such value with its parameter and element, and `advice`. Float64 values of
/// 1e150 and more count as not finite. `state`: flat tensors, fp32 or float64. Reads each rank's own shards once, and
/// makes one small all-gather. Collective over world.
void ensure_finite(Communicator& world, std::span<const StateTensor> state, const std::string& what,
                   const std::string& advice);

/// The same for the slices of one rank, in host memory, on one thread. Padding is not looked at.
void ensure_finite_here(std::span<const StateTensor> state, const std::string& what, const std::string& advice);

}  // namespace olmoe

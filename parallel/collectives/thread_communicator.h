#pragma once
#include <functional>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Runs `body` on `size` >= 1 ranks that are threads of this process, each with its communicator, and waits for all. If
/// a rank throws, every other rank throws Error in its next collective, and the first exception is thrown again here.
/// Ranks that wait for each other in different calls throw Error instead of hanging. In each thread ATen runs on one
/// thread, and backward on the thread that calls it. Collectives are called from a rank's own thread; communicators
/// must not outlive `body`.
void run_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace olmoe

#pragma once
#include <functional>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Runs `body` on `size` ranks that are threads of this process, each with its communicator, and
/// waits for all. A rank that throws makes every other rank throw in its next collective; the first
/// exception is thrown again here. Ranks that wait for each other in different calls throw instead
/// of hanging. In each thread ATen runs on one thread and backward runs where it is called.
/// Collectives are called from a rank's own thread; communicators must not outlive `body`.
void run_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace olmoe

#pragma once
#include <memory>

#include "parallel/collectives/communicator.h"
#include "parallel/collectives/rendezvous.h"

namespace olmoe {

/// All ranks of `meeting`, connected by one TCP key-value store that rank 0 (or torchrun's agent) serves: every message
/// goes through it. Meant for agreement, small reductions and NCCL's bootstrap; for data between hosts use MPI. A rank
/// that aborts makes the others throw Error with its exit code in their next collective. A rank that waits for others
/// for a second logs for which ones, and again every 30 s. Throws ConfigError if not all ranks connect within
/// meeting.patience, or two processes have the same rank. Collective over these ranks.
std::unique_ptr<Communicator> make_store_communicator(const Rendezvous& meeting);

}  // namespace olmoe

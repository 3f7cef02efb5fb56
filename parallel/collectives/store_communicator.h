#pragma once
#include <memory>

#include "parallel/collectives/communicator.h"
#include "parallel/collectives/rendezvous.h"

namespace olmoe {

/// All ranks of `meeting`, over one TCP key-value store that rank 0 (or torchrun's agent) serves:
/// every message passes through it. For agreement, small sums and NCCL's bootstrap; for data between
/// hosts take MPI. A rank that aborts makes the others throw in their next collective, with its exit
/// code. A rank that waits for others longer than a second says for whom, and again every 30 s. Throws ConfigError
/// where the ranks do not meet within meeting.patience. Collective.
std::unique_ptr<Communicator> make_store_communicator(const Rendezvous& meeting);

}  // namespace olmoe

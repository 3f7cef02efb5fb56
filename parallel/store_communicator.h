#pragma once
#include <memory>

#include "parallel/communicator.h"
#include "parallel/rendezvous.h"

namespace olmoe {

/// All ranks of `meeting`, over one TCP key-value store that rank 0 (or torchrun's agent) serves:
/// every message passes through it. For agreement, small sums and NCCL's bootstrap; for data between
/// hosts take MPI. A rank that aborts makes the others throw in their next collective, with its exit
/// code. Throws Error where the ranks do not meet within five minutes. Collective.
std::unique_ptr<Communicator> make_store_communicator(const Rendezvous& meeting);

}  // namespace olmoe

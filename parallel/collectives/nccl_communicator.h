// Calls return when the work is enqueued; "finished" in the trace means no more than that, and a barrier waits for
// ranks, not for their GPUs. A failure of NCCL, in this call or an earlier one, throws an Error that names group and
// call. Sums run in NCCL's order, which is the same in every run on the same machines; but a reduce_scatter into a
// wider dtype, max and min run in rank order as on the host, so that they are rounded once and keep NaN, and take
// temporary memory of `size` times the result.
#pragma once
#include <c10/core/Device.h>

#include <memory>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// The ranks of `host` with a GPU each: collectives on tensors on `device` use NCCL, on the caller's current stream;
/// tensors in host memory, and barriers, use `host` (MPI, store or threads). Groups of one that are split off are the
/// host's, which serve any device. Throws ConfigError in a build without CUDA, Error if `device` is not a GPU or NCCL
/// fails. Collective over `host`.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, c10::Device device);

}  // namespace olmoe

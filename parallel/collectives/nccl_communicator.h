#pragma once
#include <c10/core/Device.h>

#include <memory>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// The ranks of `host` with a GPU each: tensors on `device` go over NCCL, on the caller's current stream; tensors in
/// host memory, and barriers, go over `host` (MPI, store or threads). Groups of one that are split off stay with the
/// host, which serves them on any device. A barrier waits for ranks, not for their GPUs.
///
/// Calls return when the work is enqueued; "finished" in the trace says no more. A failure of NCCL,
/// of this call or of one before, throws an Error that names group and call. Sums run in NCCL's
/// order, which is the same in every run on the same machines; but a reduce_scatter into a wider
/// type, and max and min, run in rank order as on the host, so that they are rounded once and keep
/// NaN. Needs `size` times the memory of the result for these. Collective over `host`.
///
/// A build without CUDA throws ConfigError.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, c10::Device device);

}  // namespace olmoe

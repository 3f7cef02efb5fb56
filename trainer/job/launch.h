#pragma once
#include <functional>
#include <string>

#include "core/error.h"
#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Joins the ranks that a launcher started: over MPI (mpirun, srun with PMI), else over a TCP store (torchrun, srun
/// without PMI); without a launcher it is one rank, and makes no MPI call. Runs `body` with them and a line that names
/// the MPI library, or what there is in its place. The one place that catches: logs the error and the trace of
/// collectives (rank 0 alone where all ranks have the same error), ends the whole job with the error's exit code,
/// within 30 s whatever the other ranks do, and otherwise returns body's.
int run_launched(const std::function<ExitCode(Communicator& world, const std::string& mpi_version)>& body);

}  // namespace olmoe

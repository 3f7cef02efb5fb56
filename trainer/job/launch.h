#pragma once
#include <functional>
#include <string>

#include "core/error.h"
#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Joins the ranks that a launcher started: over MPI (mpirun, srun with PMI), else over a TCP store (torchrun, srun
/// without PMI). Without a launcher there is one rank, and no MPI call. Runs `body` with the ranks and the name of the
/// MPI library, or of its substitute, and returns its exit code. This is the one place that catches errors: it logs the
/// error and the trace of collectives (on rank 0 only where all ranks have the same error), and ends the whole job with
/// the error's exit code, within 30 s whatever the other ranks do. A rank whose launcher died ends within seconds.
int run_launched(const std::function<ExitCode(Communicator& world, const std::string& mpi_version)>& body);

}  // namespace olmoe

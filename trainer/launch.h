#pragma once
#include <functional>
#include <string>

#include "core/error.h"
#include "parallel/communicator.h"

namespace olmoe {

/// Joins the ranks that a launcher started (or is one rank, without any MPI call) and runs `body` with them and a line
/// that names the MPI library. The one place that catches: logs the error and the trace of collectives (rank 0 alone
/// where all ranks have the same error), ends the whole job with the error's exit code, and otherwise returns body's.
int run_launched(const std::function<ExitCode(Communicator& world, const std::string& mpi_version)>& body);

}  // namespace olmoe

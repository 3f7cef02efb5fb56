#pragma once
#include <string>

#include "parallel/collectives/rendezvous.h"

/// Launchers set variables with the number of ranks that they started. Ranks that are not joined would each train
/// alone, as rank 0 of 1, in the same folder.
namespace olmoe {

/// Throws ConfigError if torchrun started this process inside mpirun, or the other way round, and the two disagree on
/// the number of ranks: MPI would wait for ranks that do not exist. To be called before MPI starts.
void refuse_mixed_launchers(const Environment& environment);

/// Throws ConfigError if this process joined fewer ranks than its launcher started; the error names the variable, the
/// launcher and what to do. `library` is the MPI library, for the error.
void check_all_joined(const Environment& environment, int joined, const std::string& library);

/// A warning for a single rank in a Slurm allocation for several; empty if there is nothing to warn of.
std::string describe_idle_allocation(const Environment& environment, int joined);

/// A warning if the folder of temporary files (TMPDIR, else /tmp) is full: MPI keeps its session there, and its own
/// error does not say so. Empty if there is space.
std::string describe_full_temporary_folder(const Environment& environment);

}  // namespace olmoe

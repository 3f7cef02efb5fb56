#pragma once
#include <string>

#include "parallel/collectives/rendezvous.h"

/// Launchers tell by variables how many ranks they started. Ranks that do not join would each train alone, in one
/// folder, as rank 0 of 1.
namespace olmoe {

/// Refuses a process that torchrun started inside mpirun, or the other way round, where the two count other ranks: MPI
/// would wait for ranks that do not come. Before MPI starts. Throws ConfigError.
void refuse_mixed_launchers(const Environment& environment);

/// Refuses a process that joined fewer ranks than its launcher started; `library` is what it joined them through.
/// Throws ConfigError that names the variable, the launcher, and what to do.
void check_all_joined(const Environment& environment, int joined, const std::string& library);

/// What to say of one rank inside an allocation that was made for several; empty: nothing.
std::string describe_idle_allocation(const Environment& environment, int joined);

/// What to say where the folder of temporary files (TMPDIR, else /tmp), in which MPI keeps its session, is full: MPI's
/// own message does not tell. Empty: nothing.
std::string describe_full_temporary_folder(const Environment& environment);

}  // namespace olmoe

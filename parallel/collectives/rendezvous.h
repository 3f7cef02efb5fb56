#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace olmoe {

/// Where and how the ranks of a job that was started without MPI connect.
struct Rendezvous {
  std::string host;  ///< of the TCP store: that of rank 0, or of the launcher
  uint16_t port = 0;
  int rank = 0;
  int size = 1;
  bool launcher_serves = false;  ///< torchrun's agent serves the store at host:port; else rank 0 does
  std::string job = "olmoe";     ///< prefix of keys: distinguishes attempts of one job at the same store
  std::string variables;         ///< of the environment that this was read from: "RANK=0, WORLD_SIZE=2"
  std::string alone;             ///< how to start a single rank instead, for errors
  std::chrono::milliseconds patience = std::chrono::minutes(5);  ///< timeout for all ranks to connect
};

/// Looks up a variable of the environment; null if it is not set.
using Environment = std::function<const char*(const char*)>;
/// The variables of this process, read at each look-up.
Environment process_environment();
/// The variables as they are now: MPI_Init changes those of its launcher.
Environment copy_environment();

/// The rendezvous that torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) or else srun (SLURM_PROCID,
/// SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST) describes; none if neither started more than one rank. Throws ConfigError
/// that names a variable that is missing or not a number, and if only one of RANK and WORLD_SIZE is set and it implies
/// several ranks.
std::optional<Rendezvous> find_rendezvous(const Environment& environment);

/// This rank's number among those of its host, from mpirun, torchrun or srun; 0 without one of them. It selects the
/// GPU. Throws ConfigError if the variable is no number.
int local_rank(const Environment& environment);

/// The first host of Slurm's list: "gpu[07-09,12],login1" -> "gpu07". Throws ConfigError for a [ without ].
std::string first_host(const std::string& node_list);

}  // namespace olmoe

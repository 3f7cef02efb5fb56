#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace olmoe {

/// Where the ranks of a job meet that was started without MPI.
struct Rendezvous {
  std::string host;  ///< of rank 0, or of the launcher that serves
  uint16_t port = 0;
  int rank = 0;
  int size = 1;
  bool launcher_serves = false;  ///< torchrun's agent listens at host:port already; else rank 0 does
  std::string job = "olmoe";     ///< tells attempts of one job apart that meet at one place
  std::string variables;         ///< what of the environment said so: "RANK=0, WORLD_SIZE=2"
  std::string alone;             ///< how to start one rank instead
  std::chrono::milliseconds patience = std::chrono::minutes(5);  ///< for all ranks to come
};

/// A variable of the environment, or null.
using Environment = std::function<const char*(const char*)>;
Environment process_environment();
/// The variables as they are now: MPI_Init changes those of its launcher in the process that it starts in.
Environment copy_environment();

/// What torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) or else srun (SLURM_PROCID,
/// SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST) says; nothing where neither started more than one
/// rank. Throws ConfigError that names a variable which is missing or no number, also where one of RANK and WORLD_SIZE
/// speaks of several ranks and the other is not set.
std::optional<Rendezvous> find_rendezvous(const Environment& environment);

/// This rank's place among those of its machine, from mpirun, torchrun or srun; 0 without one of
/// them. Chooses the GPU. Throws ConfigError where it is no number.
int local_rank(const Environment& environment);

/// The first host of Slurm's list: "gpu[07-09,12],login1" -> "gpu07".
std::string first_host(const std::string& node_list);

}  // namespace olmoe

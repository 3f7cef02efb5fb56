#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// Memory and CPUs that this process really has: the one place that asks the system.
namespace olmoe {

/// Where the system is asked. Tests put a folder of made-up files before /proc and /sys, and variables of their own.
struct SystemView {
  std::string root;
  std::function<const char*(const char*)> variable;  ///< getenv where empty
};

/// One thing that bounds the memory of this process.
struct MemoryBound {
  std::string source;   ///< "the machine", "memory.max of /job_7", "SLURM_MEM_PER_NODE", "ulimit -v"
  int64_t total_bytes;  ///< that it allows at all
  int64_t free_bytes;   ///< of that, what nothing takes now; below 0 where more is taken than allowed
  bool shared;          ///< by all ranks of the machine; false: each may take as much
};

/// Every bound: the machine's memory, which is the first, limits of control groups, Slurm's allocation, RLIMIT_AS and
/// RLIMIT_DATA. Swap does not count. Throws Error where the system does not tell the machine's memory.
std::vector<MemoryBound> memory_bounds(const SystemView& system = {});
/// The bound that leaves least.
const MemoryBound& tightest(const std::vector<MemoryBound>& bounds);

/// Cores that a process may run on, 0 is this one; 0 where the system does not tell.
int allowed_cores(int process = 0);

/// What bounds the CPUs of all ranks of this machine together.
struct CpuBound {
  std::string source;  ///< "the machine", "cpu.max of /job_7", "SLURM_CPUS_ON_NODE"
  double cpus;
};
/// The cores that this process or its launcher may run on, which are the first (0 where the system does not tell),
/// quotas of control groups, Slurm's allocation.
std::vector<CpuBound> cpu_bounds(const SystemView& system = {});
/// The bound of fewest CPUs.
const CpuBound& tightest(const std::vector<CpuBound>& bounds);
/// CPUs that srun gave each of its `tasks` on this machine (--cpus-per-task), if this process is one of them.
std::optional<int> cpus_of_slurm_task(int tasks, const SystemView& system = {});

}  // namespace olmoe

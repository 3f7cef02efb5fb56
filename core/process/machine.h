#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// Memory and CPUs that this process can use, as the system, control groups, Slurm and the shell limit them.
namespace olmoe {

/// Where system files and environment variables are read. Tests pass a folder with files of their own.
struct SystemView {
  std::string root;                                  ///< prepended to /proc and /sys
  std::function<const char*(const char*)> variable;  ///< looks up a variable; empty: getenv
};

/// A bound on the memory of this process.
struct MemoryBound {
  std::string source;   ///< "the machine", "memory.max of /job_7", "SLURM_MEM_PER_NODE", "ulimit -v"
  int64_t total_bytes;  ///< allowed
  int64_t free_bytes;   ///< of these not in use; negative if more is in use than allowed
  bool shared;          ///< by all ranks of the machine; false: it holds for each rank
};

/// All bounds: first the machine's memory, then limits of control groups, Slurm's allocation, RLIMIT_AS and
/// RLIMIT_DATA. Swap does not count. Throws Error if /proc/meminfo lacks the machine's memory.
std::vector<MemoryBound> memory_bounds(const SystemView& system = {});
/// The bound with the least free memory. Throws Error if there is none.
const MemoryBound& tightest(const std::vector<MemoryBound>& bounds);

/// Number of cores in the affinity of a process (0: this one); 0 if unknown.
int allowed_cores(int process = 0);

/// A bound on the CPUs of all ranks of this machine together.
struct CpuBound {
  std::string source;  ///< "the machine", "cpu.max of /job_7", "SLURM_CPUS_ON_NODE"
  double cpus;
};
/// All bounds: first the cores that this process or its launcher may run on (0 if unknown), then quotas of control
/// groups and Slurm's allocation.
std::vector<CpuBound> cpu_bounds(const SystemView& system = {});
/// The bound with the fewest CPUs. Throws Error if there is none.
const CpuBound& tightest(const std::vector<CpuBound>& bounds);
/// CPUs of each of srun's `tasks` on this machine (--cpus-per-task), if this process is one of them.
std::optional<int> cpus_of_slurm_task(int tasks, const SystemView& system = {});

}  // namespace olmoe

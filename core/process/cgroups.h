#pragma once
#include <cstdint>
#include <string>
#include <vector>

/// Limits of the control groups of this process, versions 1 and 2: of its own group and of every mounted group above
/// it. `root` is prepended to /proc and /sys; empty except in tests. Groups without a limit are left out.
namespace olmoe::cgroups {

struct MemoryLimit {
  std::string name;     ///< "memory.max of /job_7"
  int64_t limit_bytes;  ///< memory.max or memory.high; memory.limit_in_bytes. Swap does not count
  int64_t used_bytes;   ///< by all processes of the group, without file pages, which the kernel can reclaim
};
std::vector<MemoryLimit> memory_limits(const std::string& root = {});

struct CpuLimit {
  std::string name;  ///< "cpu.max of /job_7"
  double cpus;       ///< quota / period: CPU time of the group's processes per unit of time
};
std::vector<CpuLimit> cpu_limits(const std::string& root = {});

struct TaskLimit {
  std::string name;  ///< "pids.max of /job_7"
  int64_t tasks;     ///< processes and threads
};
std::vector<TaskLimit> task_limits(const std::string& root = {});

}  // namespace olmoe::cgroups

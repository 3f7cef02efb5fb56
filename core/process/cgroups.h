#pragma once
#include <cstdint>
#include <string>
#include <vector>

/// Limits of the control groups that this process is in, versions 1 and 2, of its own group and of every group above it
/// that is mounted. `root` stands before /proc and /sys: empty but in tests.
namespace olmoe::cgroups {

struct MemoryLimit {
  std::string name;     ///< "memory.max of /job_7"
  int64_t limit_bytes;  ///< memory.max or memory.high; memory.limit_in_bytes. Swap does not count
  int64_t used_bytes;   ///< by all processes of the group, without file pages, which the kernel takes back
};
/// Groups without a limit are left out.
std::vector<MemoryLimit> memory_limits(const std::string& root = {});

struct CpuLimit {
  std::string name;  ///< "cpu.max of /job_7"
  double cpus;       ///< quota by period: CPU time that the group's processes get in a unit of time
};
/// Groups without a quota are left out.
std::vector<CpuLimit> cpu_limits(const std::string& root = {});

struct TaskLimit {
  std::string name;  ///< "pids.max of /job_7"
  int64_t tasks;     ///< processes and threads
};
/// Groups without a limit are left out.
std::vector<TaskLimit> task_limits(const std::string& root = {});

}  // namespace olmoe::cgroups

#include "core/process/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/process/cgroups.h"

namespace olmoe {
namespace {

constexpr int64_t kKib = 1 << 10, kMib = 1 << 20;

/// The text after `key` in a file of the system; none if no line starts with it.
std::optional<std::string> entry(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) return line.substr(key.size());
  return {};
}

std::optional<int64_t> first_number(const std::optional<std::string>& text) {
  std::istringstream in(text.value_or(""));
  int64_t value = 0;
  return in >> value ? std::optional(value) : std::nullopt;
}

/// An entry of a file with lines like "MemTotal:       24684032 kB", in bytes.
std::optional<int64_t> kib_entry(const std::string& path, const std::string& key) {
  const auto value = first_number(entry(path, key));
  return value ? std::optional(*value * kKib) : std::nullopt;
}

/// A positive number at the beginning of an environment variable.
std::optional<int64_t> number_variable(const SystemView& system, const char* name) {
  const char* const text = system.variable ? system.variable(name) : std::getenv(name);
  const auto value = first_number(text == nullptr ? std::nullopt : std::optional<std::string>(text));
  return value && *value > 0 ? value : std::nullopt;
}

void add_cgroups(const SystemView& system, std::vector<MemoryBound>& bounds) {
  for (const auto& limit : cgroups::memory_limits(system.root))
    bounds.push_back({limit.name, limit.limit_bytes, limit.limit_bytes - limit.used_bytes, /*shared=*/true});
}

/// The job's memory on this node in MiB, as Slurm allocated it. It counts even if not enforced: other jobs rely on it.
void add_slurm(const SystemView& system, std::vector<MemoryBound>& bounds) {
  const auto cpus = number_variable(system, "SLURM_CPUS_ON_NODE");
  if (!cpus) return;  // a login shell, which has the other variables too
  const auto add = [&](const char* name, std::optional<int64_t> times) {
    const auto mib = number_variable(system, name);  // 0: all memory of the node
    if (mib && times) bounds.push_back({name, *mib * *times * kMib, *mib * *times * kMib, /*shared=*/true});
  };
  add("SLURM_MEM_PER_NODE", 1);
  add("SLURM_MEM_PER_CPU", cpus);
  add("SLURM_MEM_PER_GPU", number_variable(system, "SLURM_GPUS_ON_NODE"));
}

/// The soft limits of /proc/self/limits, and what this process uses of them.
void add_rlimits(const SystemView& system, std::vector<MemoryBound>& bounds) {
  const auto add = [&](const char* name, const char* limit, const char* taken) {
    const auto bytes = first_number(entry(system.root + "/proc/self/limits", limit));  // nothing: "unlimited"
    if (!bytes) return;
    const auto used = kib_entry(system.root + "/proc/self/status", taken).value_or(0);
    bounds.push_back({name, *bytes, *bytes - used, /*shared=*/false});
  };
  add("ulimit -v", "Max address space", "VmSize:");
  add("ulimit -d", "Max data size", "VmData:");
}

}  // namespace

std::vector<MemoryBound> memory_bounds(const SystemView& system) {
  const auto path = system.root + "/proc/meminfo";
  const auto total = kib_entry(path, "MemTotal:"), available = kib_entry(path, "MemAvailable:");
  ENSURE(total && available, "{} does not have the memory of this machine", path);
  std::vector<MemoryBound> bounds{{"the machine", *total, *available, /*shared=*/true}};
  add_cgroups(system, bounds);
  add_slurm(system, bounds);
  add_rlimits(system, bounds);
  return bounds;
}

const MemoryBound& tightest(const std::vector<MemoryBound>& bounds) {
  ENSURE(!bounds.empty(), "no bound on memory");
  return *std::min_element(bounds.begin(), bounds.end(), [](auto& a, auto& b) { return a.free_bytes < b.free_bytes; });
}

int allowed_cores(int process) {
  constexpr size_t kMostSets = 1024;  // of 1,024 cores each
  for (std::vector<cpu_set_t> sets(1); sets.size() <= kMostSets; sets.resize(2 * sets.size())) {
    const size_t size_bytes = sets.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(process, size_bytes, sets.data()) == 0) return CPU_COUNT_S(size_bytes, sets.data());
    if (errno != EINVAL) break;  // EINVAL: the machine has more cores than that
  }
  return 0;
}

std::vector<CpuBound> cpu_bounds(const SystemView& system) {
  const int cores = std::max(allowed_cores(), allowed_cores(getppid()));
  std::vector<CpuBound> bounds{{"the machine", static_cast<double>(cores)}};
  for (const auto& limit : cgroups::cpu_limits(system.root)) bounds.push_back({limit.name, limit.cpus});
  if (const auto cpus = number_variable(system, "SLURM_CPUS_ON_NODE"))
    bounds.push_back({"SLURM_CPUS_ON_NODE", static_cast<double>(*cpus)});
  return bounds;
}

const CpuBound& tightest(const std::vector<CpuBound>& bounds) {
  ENSURE(!bounds.empty(), "no bound on CPUs");
  return *std::min_element(bounds.begin(), bounds.end(), [](auto& a, auto& b) { return a.cpus < b.cpus; });
}

std::optional<int> cpus_of_slurm_task(int tasks, const SystemView& system) {
  // Variables of the step that this process runs in. mpirun in an allocation is a step of one task per node.
  if (number_variable(system, "SLURM_STEP_TASKS_PER_NODE") != tasks) return {};
  const auto cpus = number_variable(system, "SLURM_CPUS_PER_TASK");
  return cpus ? std::optional(static_cast<int>(*cpus)) : std::nullopt;
}

}  // namespace olmoe

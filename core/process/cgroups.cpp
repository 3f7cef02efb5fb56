#include "core/process/cgroups.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace olmoe::cgroups {
namespace {

/// The folder of a controller's files for one group, and the group's name.
struct Group {
  std::string folder, name;
  bool own;  ///< this process's; false: one above it
};
enum class Version { v1, v2 };
struct Hierarchy {
  Version version;
  std::vector<Group> groups;
};

std::vector<std::string> split(const std::string& text, char mark) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, mark);) parts.push_back(part);
  return parts;
}

bool contains(const std::vector<std::string>& parts, const std::string& part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

/// The number that a file begins with; none if there is no such file, or it says "max".
std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? std::optional(value) : std::nullopt;
}

/// The sum of the entries of a memory.stat that are among `keys`.
int64_t sum_of_entries(const std::string& path, const std::vector<std::string>& keys) {
  std::ifstream in(path);
  std::string key;
  int64_t sum = 0;
  for (int64_t value = 0; in >> key >> value;)
    if (contains(keys, key)) sum += value;
  return sum;
}

/// The path of /proc/self/cgroup for a controller, in the hierarchy of version 1 that has it, or in that of version 2.
std::optional<std::string> own_path(const std::string& root, Version version, const std::string& controller) {
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "4:memory:/job_7", and of version 2 "0::/job_7"
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    if (version == Version::v2 ? controllers.empty() : contains(split(controllers, ','), controller))
      return line.substr(second + 1);
  }
  return {};
}

/// `path` relative to the mounted group `mounted`; "" for that group itself, and for a process outside of it, which
/// sees only the mounted group.
std::string below(const std::string& path, const std::string& mounted) {
  const auto prefix = mounted == "/" ? "" : mounted;
  if (path == "/" || !path.starts_with(prefix + "/") || path.find("/..") != std::string::npos) return {};
  return path.substr(prefix.size());
}

/// The groups from the process's own up to the mounted one.
std::vector<Group> groups_between(const std::string& mount_point, const std::string& mounted, const std::string& path) {
  const auto prefix = mounted == "/" ? "" : mounted;
  std::vector<Group> groups;
  for (auto rest = below(path, mounted);; rest.erase(rest.rfind('/'))) {
    const auto name = prefix + rest;
    groups.push_back({mount_point + rest, name.empty() ? std::string("/") : name, groups.empty()});
    if (rest.empty()) return groups;
  }
}

/// The mounted hierarchies with `controller` that this process is in.
std::vector<Hierarchy> hierarchies(const std::string& root, const std::string& controller) {
  std::vector<Hierarchy> found;
  std::ifstream in(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    // "35 31 0:32 /the/group /where/it/is rw,relatime shared:9 - cgroup cgroup rw,memory"
    const auto fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 5 || fields.end() - dash < 4) continue;
    const bool second = dash[1] == "cgroup2";
    if (!second && (dash[1] != "cgroup" || !contains(split(dash[3], ','), controller))) continue;
    const auto version = second ? Version::v2 : Version::v1;
    if (const auto path = own_path(root, version, controller))
      found.push_back({version, groups_between(root + fields[4], fields[3], *path)});
  }
  return found;
}

void add_memory_limits(const Group& group, Version version, std::vector<MemoryLimit>& limits) {
  constexpr int64_t kNone = int64_t{1} << 60;  // version 1 writes "no limit" as a large number
  const bool second = version == Version::v2;
  // Groups of version 1 count their children only with memory.use_hierarchy.
  if (!second && !group.own && read_number(group.folder + "/memory.use_hierarchy") == 0) return;
  const auto used = read_number(group.folder + (second ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
  const auto file_pages = second ? std::vector<std::string>{"inactive_file", "active_file"}
                                 : std::vector<std::string>{"total_inactive_file", "total_active_file"};
  const int64_t kept = std::max<int64_t>(0, used - sum_of_entries(group.folder + "/memory.stat", file_pages));
  for (const std::string file : {"memory.max", "memory.high", "memory.limit_in_bytes"}) {
    if ((file == "memory.limit_in_bytes") == second) continue;
    const auto limit = read_number(group.folder + "/" + file);
    if (limit && *limit < kNone) limits.push_back({fmt::format("{} of {}", file, group.name), *limit, kept});
  }
}

void add_cpu_limit(const Group& group, Version version, std::vector<CpuLimit>& limits) {
  if (version == Version::v2) {
    std::ifstream in(group.folder + "/cpu.max");  // "200000 100000", or "max 100000"
    double quota = 0, period = 0;
    if (in >> quota >> period && period > 0) limits.push_back({"cpu.max of " + group.name, quota / period});
    return;
  }
  const auto quota = read_number(group.folder + "/cpu.cfs_quota_us");  // -1: none
  const auto period = read_number(group.folder + "/cpu.cfs_period_us");
  if (quota && period && *quota > 0 && *period > 0)
    limits.push_back({"cpu.cfs_quota_us of " + group.name, static_cast<double>(*quota) / static_cast<double>(*period)});
}

}  // namespace

std::vector<MemoryLimit> memory_limits(const std::string& root) {
  std::vector<MemoryLimit> limits;
  for (const auto& hierarchy : hierarchies(root, "memory"))
    for (const auto& group : hierarchy.groups) add_memory_limits(group, hierarchy.version, limits);
  return limits;
}

std::vector<TaskLimit> task_limits(const std::string& root) {
  std::vector<TaskLimit> limits;
  for (const auto& hierarchy : hierarchies(root, "pids"))
    for (const auto& group : hierarchy.groups)
      if (const auto most = read_number(group.folder + "/pids.max"))
        limits.push_back({"pids.max of " + group.name, *most});
  return limits;
}

std::vector<CpuLimit> cpu_limits(const std::string& root) {
  std::vector<CpuLimit> limits;
  for (const auto& hierarchy : hierarchies(root, "cpu"))
    for (const auto& group : hierarchy.groups) add_cpu_limit(group, hierarchy.version, limits);
  return limits;
}

}  // namespace olmoe::cgroups

#include "core/process_limits.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <fstream>

namespace olmoe {
namespace {

int64_t limit_of(decltype(RLIMIT_FSIZE) resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return static_cast<int64_t>(limit.rlim_cur);
}

std::string text_of(int64_t limit) { return limit == kUnlimited ? "unlimited" : std::to_string(limit); }

/// Tasks that the cgroup of this process may hold; empty where there is no limit, or none to be seen.
std::string cgroup_tasks() {
  for (const char* path : {"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"}) {
    std::string most;
    if (std::ifstream(path) >> most && most != "max") return most;
  }
  return {};
}

}  // namespace

int64_t file_size_limit() { return limit_of(RLIMIT_FSIZE); }

std::string describe_thread_limits() {
  constexpr int64_t kKiB = 1024;
  const auto in_kib = [](int64_t limit) { return text_of(limit == kUnlimited ? limit : limit / kKiB); };
  auto text = fmt::format("ulimit -u (processes and threads of this user) {}, ulimit -v (address space, KiB) {}, "
                          "ulimit -s (stack of a thread, KiB) {}",
                          text_of(limit_of(RLIMIT_NPROC)), in_kib(limit_of(RLIMIT_AS)), in_kib(limit_of(RLIMIT_STACK)));
  if (const auto tasks = cgroup_tasks(); !tasks.empty()) text += fmt::format(", pids.max of the cgroup {}", tasks);
  return text;
}

std::string limit_behind(int error) {
  const auto behind = [](const char* option, decltype(RLIMIT_FSIZE) resource, const char* what) {
    const int64_t limit = limit_of(resource);
    return limit == kUnlimited ? std::string() : fmt::format(" (ulimit -{} allows {} {})", option, limit, what);
  };
  switch (error) {
    case EFBIG: return behind("f", RLIMIT_FSIZE, "bytes a file");
    case EMFILE: return behind("n", RLIMIT_NOFILE, "open files");
    case ENOMEM: return behind("v", RLIMIT_AS, "bytes of address space");
    default: return {};
  }
}

void report_file_size_limit() { std::signal(SIGXFSZ, SIG_IGN); }

}  // namespace olmoe

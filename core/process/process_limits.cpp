#include "core/process/process_limits.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "core/process/cgroups.h"

namespace olmoe {
namespace {

int64_t limit_of(decltype(RLIMIT_FSIZE) resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return static_cast<int64_t>(limit.rlim_cur);
}

std::string text_of(int64_t limit) { return limit == kUnlimited ? "unlimited" : std::to_string(limit); }

}  // namespace

int64_t file_size_limit() { return limit_of(RLIMIT_FSIZE); }

std::string describe_thread_limits() {
  constexpr int64_t kKiB = 1024;
  const auto in_kib = [](int64_t limit) { return text_of(limit == kUnlimited ? limit : limit / kKiB); };
  auto text = fmt::format(
      "ulimit -u (processes and threads of this user) {}, ulimit -v (address space, KiB) {}, "
      "ulimit -s (stack of a thread, KiB) {}",
      text_of(limit_of(RLIMIT_NPROC)), in_kib(limit_of(RLIMIT_AS)), in_kib(limit_of(RLIMIT_STACK)));
  for (const auto& limit : cgroups::task_limits()) text += fmt::format(", {} {}", limit.name, limit.tasks);
  return text;
}

std::string limit_behind(int error) {
  const auto behind = [](const char* option, decltype(RLIMIT_FSIZE) resource, const char* what) {
    const int64_t limit = limit_of(resource);
    return limit == kUnlimited ? std::string() : fmt::format(" (ulimit -{} allows {} {})", option, limit, what);
  };
  switch (error) {
    case EFBIG:
      return behind("f", RLIMIT_FSIZE, "bytes a file");
    case EMFILE:
      return behind("n", RLIMIT_NOFILE, "open files");
    case ENOMEM:
      return behind("v", RLIMIT_AS, "bytes of address space");
    default:
      return {};
  }
}

int64_t open_file_limit() { return limit_of(RLIMIT_NOFILE); }

void raise_open_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // if it fails the limit stays, and errors name it
}

void report_file_size_limit() { std::signal(SIGXFSZ, SIG_IGN); }

}  // namespace olmoe

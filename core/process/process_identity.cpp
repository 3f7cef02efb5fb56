#include "core/process/process_identity.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <sstream>

namespace olmoe {
namespace {

/// Fields of /proc/PID/stat, of proc(5).
struct Stat {
  static constexpr uint64_t kExiting = 0x4;  // PF_EXITING of the kernel's flags
  char state = '?';
  uint64_t flags = 0;
  int64_t threads = 0;
  int64_t start_ticks = 0;

  /// A process whose parent has not asked for its exit code yet; with threads that still end it is not over.
  bool is_over() const { return (state == 'Z' || state == 'X') && threads <= 1; }
  bool is_ending() const { return (flags & kExiting) != 0 || state == 'Z' || state == 'X'; }
};

std::optional<Stat> read_stat(int64_t pid) {
  constexpr int kState = 3, kFlags = 9, kThreads = 20, kStart = 22;
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return {};
  std::istringstream rest(line.substr(std::min(line.size(), line.rfind(')') + 1)));  // a name may have any characters
  Stat stat;
  std::string skipped;
  for (int field = kState; field <= kStart; ++field) {
    if (field == kState)
      rest >> stat.state;
    else if (field == kFlags)
      rest >> stat.flags;
    else if (field == kThreads)
      rest >> stat.threads;
    else if (field == kStart)
      rest >> stat.start_ticks;
    else
      rest >> skipped;
  }
  return rest ? std::optional(stat) : std::nullopt;
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

/// "pid:[4026531836]"
std::string pid_namespace() {
  std::array<char, 64> text{};
  const auto bytes = ::readlink("/proc/self/ns/pid", text.data(), text.size());
  return {text.data(), static_cast<size_t>(std::max<ssize_t>(0, bytes))};
}

}  // namespace

std::string host_name() {
  std::array<char, 256> host{};
  return gethostname(host.data(), host.size() - 1) == 0 && host[0] != 0 ? host.data() : "unknown-host";
}

ProcessIdentity identity_of(int64_t pid) {
  const auto stat = read_stat(pid);
  return {host_name(), boot_id(), pid_namespace(), pid, stat ? stat->start_ticks : 0};
}

ProcessIdentity this_process() { return identity_of(::getpid()); }

ProcessState state_of(const ProcessIdentity& process) {
  const auto self = this_process();
  if (process.host != self.host || process.boot.empty() || process.pid_namespace.empty() || self.start_ticks == 0)
    return ProcessState::out_of_reach;
  // Two hosts of one name exist, so another boot alone does not tell that the process is gone.
  if (process.boot != self.boot || process.pid_namespace != self.pid_namespace) return ProcessState::out_of_reach;
  const auto stat = read_stat(process.pid);
  if (!stat || stat->start_ticks != process.start_ticks || stat->is_over()) return ProcessState::gone;
  return stat->is_ending() ? ProcessState::ending : ProcessState::running;
}

}  // namespace olmoe

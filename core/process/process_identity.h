#pragma once
#include <cstdint>
#include <string>

namespace olmoe {

/// This host's name; "unknown-host" where it has none.
std::string host_name();

/// One process among all that ever ran on the hosts of a file system: a number that the kernel gives to another process
/// later is another identity. Texts have no white space.
struct ProcessIdentity {
  std::string host;
  std::string boot;           ///< the kernel's id of this boot; empty: unknown
  std::string pid_namespace;  ///< containers of one host number their processes apart; empty: unknown
  int64_t pid = 0;
  int64_t start_ticks = 0;  ///< when it started, in clock ticks since the boot

  bool operator==(const ProcessIdentity&) const = default;
};

ProcessIdentity this_process();
/// A process of this host, by its number; `start_ticks` is 0 where there is none.
ProcessIdentity identity_of(int64_t pid);

/// What this process can tell of another one.
enum class ProcessState {
  running,
  ending,        ///< the kernel is taking it down, as after a kill -9: it frees its memory first
  gone,          ///< ended
  out_of_reach,  ///< of another host, container or boot, or /proc does not say
};
ProcessState state_of(const ProcessIdentity& process);

}  // namespace olmoe

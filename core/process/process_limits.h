#pragma once
#include <cstdint>
#include <limits>
#include <string>

/// What a shell, a container or a batch system allows this process (setrlimit(2), the cgroup's pids.max).
namespace olmoe {

inline constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

/// Bytes that a file may grow to (ulimit -f); kUnlimited where there is no limit.
int64_t file_size_limit();

/// Files that may be open at one time (ulimit -n); kUnlimited where there is no limit.
int64_t open_file_limit();
/// Takes as many open files as this process may without more rights (ulimit -Hn): a data set has thousands.
void raise_open_file_limit();

/// The limits that a new thread may meet, as text: "ulimit -u (processes and threads of this user) 100, ...".
std::string describe_thread_limits();

/// For a system call that failed with `error`: " (ulimit -f allows 8192 bytes a file)" where a limit of this process
/// explains it, else empty.
std::string limit_behind(int error);

/// From now on a file that would grow past its limit makes write(2) fail, instead of ending the process by SIGXFSZ.
void report_file_size_limit();

}  // namespace olmoe

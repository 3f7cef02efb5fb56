#pragma once
#include <cstdint>
#include <limits>
#include <string>

/// Limits of this process, set by a shell, a container or a batch system (setrlimit(2), pids.max of its control
/// groups).
namespace olmoe {

inline constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

/// Maximum bytes of a file (ulimit -f); kUnlimited if there is no limit.
int64_t file_size_limit();

/// Maximum number of open files (ulimit -n); kUnlimited if there is no limit.
int64_t open_file_limit();
/// Raises the limit of open files to the hard limit (ulimit -Hn): a data set has thousands of files.
void raise_open_file_limit();

/// The limits that can stop a new thread, as text: "ulimit -u (processes and threads of this user) 100, ...".
std::string describe_thread_limits();

/// The limit of this process that explains why a system call failed with `error`: " (ulimit -f allows 8192 bytes a
/// file)"; empty if none does.
std::string limit_behind(int error);

/// Makes write(2) fail for a file that would grow past its limit, instead of SIGXFSZ ending the process.
void report_file_size_limit();

}  // namespace olmoe

#pragma once
#include <functional>
#include <string>
#include <system_error>
#include <utility>

/// Threads whose start may fail because of a limit on processes or address space.
namespace olmoe {

/// Throws the ConfigError for a thread `what` that could not be started: the system's reason, the limits that may
/// explain it (ulimit -u, -s, -v, pids.max of the cgroup), what to do.
[[noreturn]] void throw_no_thread(const std::string& what, const std::string& reason);

/// `Thread(body)`, a std::thread or std::jthread. Throws ConfigError, with `what` it is, if it cannot be started.
template <class Thread, class Body>
Thread start_thread(const std::string& what, Body&& body) {
  try {
    return Thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    throw_no_thread(what, error.code().message());
  }
}

/// Starts `count` threads at once and ends them. Throws ConfigError if that fails: OpenMP would abort or hang the
/// process if it could not start as many.
void check_threads(int count);

}  // namespace olmoe

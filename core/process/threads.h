#pragma once
#include <functional>
#include <string>
#include <system_error>
#include <utility>

/// Threads that the system may refuse, because of a limit on processes or on address space.
namespace olmoe {

/// Throws the ConfigError of a thread that could not be started: what it was for, the system's reason, the limits that
/// may be behind it (ulimit -u, -s, -v, pids.max of the cgroup), what to do.
[[noreturn]] void throw_no_thread(const std::string& what, const std::string& reason);

/// `Thread(body)`, a std::thread or std::jthread. Throws ConfigError where the system refuses it.
template <class Thread, class Body>
Thread start_thread(const std::string& what, Body&& body) {
  try {
    return Thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    throw_no_thread(what, error.code().message());
  }
}

/// Starts `count` threads at once and ends them again. OpenMP ends or hangs the process where it cannot start its own,
/// so this is asked first. Throws ConfigError.
void check_threads(int count);

}  // namespace olmoe

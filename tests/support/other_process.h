// A process beside the test, for what is asked about processes.
#pragma once
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "core/error.h"

namespace olmoe::test {

/// Starts a process that does `work` and says when it has done it; then it waits to be killed.
class OtherProcess {
 public:
  explicit OtherProcess(const std::function<void()>& work = [] {}) {
    int ends[2];
    ENSURE(::pipe(ends) == 0, "no pipe");
    child_ = ::fork();
    if (child_ == 0) {
      work();
      if (::write(ends[1], "x", 1) == 1) ::pause();
      ::_exit(1);
    }
    ::close(ends[1]);
    char done = 0;
    ENSURE(::read(ends[0], &done, 1) == 1, "the other process ended");
    ::close(ends[0]);
  }
  ~OtherProcess() { kill(); }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;

  /// Returns once it is gone.
  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  pid_t pid() const { return child_; }

 private:
  pid_t child_ = 0;
};

}  // namespace olmoe::test

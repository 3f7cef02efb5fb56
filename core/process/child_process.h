#pragma once
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/process/process_identity.h"

namespace olmoe {

/// A command of the user's, which runs beside this process.
struct ShellCommand {
  std::string text;                                   ///< for /bin/sh -c
  std::string output = {};                            ///< path of a file that what it prints is appended to
  std::map<std::string, std::string> variables = {};  ///< in its environment, beside those of this process
  std::vector<std::string> without = {};  ///< variables of this process that begin with one of these are left out
};

/// How a command ended.
struct ProcessEnd {
  enum class How {
    exited,     ///< with exit code `code`
    signalled,  ///< by signal `code`
    timed_out,  ///< it was ended because it took too long
    stopped,    ///< it was ended because the caller asked for that
    unknown,    ///< its parent, which ignores SIGCHLD, is not told
  };
  How how = How::exited;
  int code = 0;

  bool succeeded() const { return how == How::exited && code == 0; }
  /// "exit code 3", "signal 9 (Killed)", ...
  std::string describe() const;
};

/// A command in a session and process group of its own: no signal to this process's group or terminal reaches it, and
/// none to its own group reaches this process. Signals are at their defaults, nothing but /dev/null and the output file
/// is open, and its priority is lower (nice, by 10). It is started without fork(), which is not safe beside MPI.
class ChildProcess {
 public:
  using Seconds = std::chrono::duration<double>;

  /// Throws Error with the system's reason where the command cannot be started, or its output file not be opened.
  explicit ChildProcess(const ShellCommand& command);
  /// Kills what is left of the group if the command has not ended.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// How it ended; none while it runs. What it left in the background is not waited for.
  std::optional<ProcessEnd> poll();
  /// Waits for its end. After `limit`, or once `stop` returns true (asked every 20 ms), ends the whole group: SIGTERM,
  /// and SIGKILL for those that still live after `grace`. One that the kernel cannot kill is given up a second later.
  ProcessEnd wait(Seconds limit, Seconds grace, const std::function<bool()>& stop);
  const ProcessIdentity& identity() const { return identity_; }

 private:
  pid_t pid_ = 0;
  ProcessIdentity identity_;
  std::optional<ProcessEnd> end_;
};

/// Ends the process group that `leader` made, as ChildProcess::wait() does, if the leader is a living process of this
/// host; else does nothing. Returns whether it did.
bool end_process_group(const ProcessIdentity& leader, ChildProcess::Seconds grace);

}  // namespace olmoe

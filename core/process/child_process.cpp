#include "core/process/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <thread>

#include "core/error.h"

namespace olmoe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr auto kMostAfterKill = std::chrono::seconds(1);
constexpr int kNicer = 10, kNicest = 19;

void check(int error) {
  if (error != 0) throw Error(fmt::format("cannot prepare a command: {}", std::strerror(error)));
}

/// What the child does between its start and the shell.
class Actions {
 public:
  explicit Actions(const std::string& output) {
    check(::posix_spawn_file_actions_init(&actions_));
    open(STDIN_FILENO, "/dev/null", O_RDONLY);
    open(STDOUT_FILENO, output.c_str(), O_WRONLY | O_CREAT | O_APPEND);
    check(::posix_spawn_file_actions_adddup2(&actions_, STDOUT_FILENO, STDERR_FILENO));
    check(::posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1));
  }
  ~Actions() { ::posix_spawn_file_actions_destroy(&actions_); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  void open(int fd, const char* path, int flags) {
    check(::posix_spawn_file_actions_addopen(&actions_, fd, path, flags, 0644));
  }

  posix_spawn_file_actions_t actions_;
};

/// A session of its own, and signals as a shell expects them.
class Attributes {
 public:
  Attributes() {
    check(::posix_spawnattr_init(&attributes_));
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  }
  ~Attributes() { ::posix_spawnattr_destroy(&attributes_); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

/// "NAME=value" of each variable of the child.
std::vector<std::string> environment_of(const ShellCommand& command) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string name(text.substr(0, text.find('=')));
    const auto begins_it = [&](const std::string& prefix) { return name.starts_with(prefix); };
    if (!command.variables.contains(name) && std::ranges::none_of(command.without, begins_it)) out.emplace_back(text);
  }
  for (const auto& [name, value] : command.variables) out.push_back(name + "=" + value);
  return out;
}

/// Whether a group has members; one that has ended and was not waited for counts.
bool has_members(pid_t group) { return ::kill(-group, 0) == 0 || errno == EPERM; }

/// `reap` waits for the leader where this process is its parent.
void end_group(pid_t group, ChildProcess::Seconds grace, const std::function<void()>& reap) {
  ::kill(-group, SIGTERM);
  ::kill(-group, SIGCONT);  // one that is stopped would not see it
  const auto deadline = Clock::now() + grace;
  for (reap(); has_members(group) && Clock::now() < deadline; reap()) std::this_thread::sleep_for(kTick);
  ::kill(-group, SIGKILL);
}

}  // namespace

std::string ProcessEnd::describe() const {
  switch (how) {
    case How::exited:
      return fmt::format("exit code {}", code);
    case How::signalled:
      return fmt::format("signal {} ({})", code, ::strsignal(code));
    case How::timed_out:
      return "its time limit";
    case How::stopped:
      return "the end of the run";
    case How::unknown:
      return "an exit code that the system does not tell (SIGCHLD is ignored, or another thread took it)";
  }
  return "";
}

ChildProcess::ChildProcess(const ShellCommand& command) {
  const Actions actions(command.output);
  const Attributes attributes;
  auto variables = environment_of(command);
  std::vector<char*> environment;
  for (auto& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  std::array<std::string, 3> words{"sh", "-c", command.text};
  std::array<char*, 4> arguments{words[0].data(), words[1].data(), words[2].data(), nullptr};
  const int error =
      ::posix_spawn(&pid_, "/bin/sh", actions.get(), attributes.get(), arguments.data(), environment.data());
  if (error != 0)
    throw Error(
        fmt::format("/bin/sh, with its output to '{}', cannot be started: {}", command.output, std::strerror(error)));
  ::setpriority(PRIO_PGRP, static_cast<id_t>(pid_), std::min(kNicest, ::getpriority(PRIO_PROCESS, 0) + kNicer));
  identity_ = identity_of(pid_);
}

ChildProcess::~ChildProcess() {
  if (!poll()) wait({}, {}, [] { return true; });
}

std::optional<ProcessEnd> ChildProcess::poll() {
  if (end_) return end_;
  int status = 0;
  const pid_t found = ::waitpid(pid_, &status, WNOHANG);
  if (found == pid_)
    end_ = WIFEXITED(status) ? ProcessEnd{ProcessEnd::How::exited, WEXITSTATUS(status)}
                             : ProcessEnd{ProcessEnd::How::signalled, WTERMSIG(status)};
  else if (found < 0 && errno == ECHILD)
    end_ = ProcessEnd{ProcessEnd::How::unknown};
  return end_;
}

ProcessEnd ChildProcess::wait(Seconds limit, Seconds grace, const std::function<bool()>& stop) {
  const auto deadline = Clock::now() + limit;
  for (;; std::this_thread::sleep_for(kTick)) {
    if (poll()) return *end_;
    const bool late = Clock::now() >= deadline;
    if (!late && !stop()) continue;
    end_group(pid_, grace, [this] { poll(); });
    // One that waits for a file system that does not answer cannot be killed: it must not hold this process.
    for (const auto killed = Clock::now(); !poll() && Clock::now() < killed + kMostAfterKill;)
      std::this_thread::sleep_for(kTick);
    return *(end_ = ProcessEnd{late ? ProcessEnd::How::timed_out : ProcessEnd::How::stopped});
  }
}

bool end_process_group(const ProcessIdentity& leader, ChildProcess::Seconds grace) {
  if (state_of(leader) != ProcessState::running) return false;
  end_group(static_cast<pid_t>(leader.pid), grace, [] {});
  return true;
}

}  // namespace olmoe

#include "core/process/piped_process.h"

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace olmoe {

PipedProcess::PipedProcess(const std::vector<std::string>& words) {
  ENSURE(!words.empty(), "there is no program to start");
  name_ = words.front();
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
    throw Error(fmt::format("{}: no streams to talk over: {}", name_, std::strerror(errno)));
  std::vector<std::string> copies = words;
  std::vector<char*> arguments;
  for (auto& word : copies) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  int error = ::posix_spawn_file_actions_init(&actions);
  if (error == 0) {
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO})
      if (error == 0) error = ::posix_spawn_file_actions_adddup2(&actions, ends[1], stream);
    if (error == 0) error = ::posix_spawnp(&pid_, name_.c_str(), &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  ::close(ends[1]);
  socket_ = ends[0];
  if (error == 0) return;
  close();
  throw Error(fmt::format("{} cannot be started: {}", name_, std::strerror(error)));
}

PipedProcess::~PipedProcess() {
  close();
  if (!status_) ::waitpid(pid_, nullptr, 0);
}

void PipedProcess::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void PipedProcess::throw_ended() {
  if (!status_) {
    close();
    int status = 0;
    ::waitpid(pid_, &status, 0);
    status_ = status;
  }
  const bool exited = WIFEXITED(*status_);
  throw Error(fmt::format("{} has ended, by {} {}", name_, exited ? "exit code" : "signal",
                          exited ? WEXITSTATUS(*status_) : WTERMSIG(*status_)));
}

std::string PipedProcess::ask(std::string_view line) {
  if (status_) throw_ended();
  std::string out(line);
  out += '\n';
  for (size_t sent = 0; sent < out.size();) {
    const auto count = ::send(socket_, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_ended();
    sent += static_cast<size_t>(count);
  }
  return read_line();
}

std::string PipedProcess::read_line() {
  if (status_) throw_ended();
  std::array<char, 1 << 14> block;
  size_t end = 0;
  while ((end = received_.find('\n')) == std::string::npos) {
    const auto count = ::recv(socket_, block.data(), block.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw_ended();
    received_.append(block.data(), static_cast<size_t>(count));
  }
  auto out = received_.substr(0, end);
  received_.erase(0, end + 1);
  return out;
}

}  // namespace olmoe

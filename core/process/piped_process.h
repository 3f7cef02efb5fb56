#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace olmoe {

/// A program that answers lines with lines, over its standard input and output; its standard error is this process's.
/// It is to end when its input does.
class PipedProcess {
 public:
  /// `words`: the program, found on PATH, and its arguments. Throws Error with the system's reason where it cannot be
  /// started.
  explicit PipedProcess(const std::vector<std::string>& words);
  /// Closes its input and waits for its end.
  ~PipedProcess();
  PipedProcess(const PipedProcess&) = delete;
  PipedProcess& operator=(const PipedProcess&) = delete;

  /// Sends a line, without its end, and returns the next line of the answer. Throws Error where the program has ended,
  /// with its exit code or signal.
  std::string ask(std::string_view line);
  /// The next line that it writes. Throws Error as ask() does.
  std::string read_line();

 private:
  [[noreturn]] void throw_ended();
  void close();

  std::string name_;
  pid_t pid_ = 0;
  int socket_ = -1;  ///< both of its streams: unlike a pipe's, its end raises no SIGPIPE here
  std::string received_;
  std::optional<int> status_;
};

}  // namespace olmoe

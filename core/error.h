#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace olmoe {

/// Exit codes of the programs. mpirun passes them on.
enum class ExitCode : int {
  ok = 0,
  internal = 1,
  config = 2,
  data = 3,
  checkpoint = 4,
  hang = 71,
  non_finite = 72,
  corrupt_replica = 73,
  preempted = 75,
};

/// Base of all errors that are thrown here, with the exit code of a program that it ends.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::internal)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// A mistake in a config file or on the command line, which the user can fix.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(message, ExitCode::config) {}
};

/// A missing or damaged token file.
class DataError : public Error {
 public:
  explicit DataError(const std::string& message) : Error(message, ExitCode::data) {}
};

/// A checkpoint that cannot be written, is incomplete or damaged, or is of another model.
class CheckpointError : public Error {
 public:
  explicit CheckpointError(const std::string& message) : Error(message, ExitCode::checkpoint) {}
};

}  // namespace olmoe

/// Throws olmoe::Error with file, line and the formatted message unless `cond` holds.
#define ENSURE(cond, ...)                                                                                       \
  do {                                                                                                          \
    if (!(cond)) [[unlikely]]                                                                                   \
      throw ::olmoe::Error(fmt::format("{}:{}: {} [{}]", __FILE__, __LINE__, fmt::format(__VA_ARGS__), #cond)); \
  } while (false)

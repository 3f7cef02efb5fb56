#pragma once
#include <chrono>
#include <optional>
#include <string>

#include "core/files/file_descriptor.h"

namespace olmoe {

/// A lock on `folder`/run.lock that keeps a second run on this machine out of a run folder. The kernel releases it
/// however the process ends; child programs do not inherit it. The file names the holder; a leftover file without a
/// lock does not count. Other hosts are kept out only where the file system shares locks between them.
class RunLock {
 public:
  /// Time for a process that is ending: a killed one frees its memory first.
  static constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(5);

  /// Throws ConfigError with the holder's host, process and start time where another process holds the lock for longer
  /// than `patience`. Where the file system has no locks it logs a warning and locks nothing.
  explicit RunLock(const std::string& folder, std::chrono::milliseconds patience = kPatience);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Throws as the constructor does, and changes nothing.
  static void check_free(const std::string& folder, std::chrono::milliseconds patience = kPatience);

 private:
  std::string path_;
  std::optional<FileDescriptor> file_;
};

}  // namespace olmoe

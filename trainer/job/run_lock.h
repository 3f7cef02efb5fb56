#pragma once
#include <chrono>
#include <optional>
#include <string>

#include "core/files/file_descriptor.h"

namespace olmoe {

/// Keeps a second run of this machine out of a run folder: a lock on `folder`/run.lock, which the kernel takes back
/// when the process ends, however it does (no program that it starts inherits it). The file says who holds it; left
/// over, it means nothing. Other hosts are kept out only where the file system carries locks between them.
class RunLock {
 public:
  /// How long a process that is just ending may take: one that was killed gives its memory back first.
  static constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(5);

  /// Throws ConfigError that names host, process and since when, where another one holds the lock for longer than
  /// `patience`. Warns, and locks nothing, where the file system has no locks.
  explicit RunLock(const std::string& folder, std::chrono::milliseconds patience = kPatience);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Throws as the constructor would, but makes and changes nothing.
  static void check_free(const std::string& folder, std::chrono::milliseconds patience = kPatience);

 private:
  std::string path_;
  std::optional<FileDescriptor> file_;
};

}  // namespace olmoe

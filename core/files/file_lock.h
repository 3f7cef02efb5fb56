#pragma once
#include <optional>
#include <string>
#include <utility>

#include "core/files/file_descriptor.h"

namespace olmoe {

/// flock(2) of a whole file, held until this object is destroyed or the process ends. Keeps out those who ask for a
/// lock, and nobody else.
class FileLock {
 public:
  enum class Kind { shared, exclusive };
  /// None where another holds a lock that excludes this one. Does not wait. Throws FileError where the file cannot be
  /// opened, for an exclusive lock to be written as NFS asks for it, and where the file system has no locks.
  static std::optional<FileLock> try_lock(const std::string& path, Kind kind);

 private:
  explicit FileLock(FileDescriptor file) : file_(std::move(file)) {}
  FileDescriptor file_;
};

}  // namespace olmoe

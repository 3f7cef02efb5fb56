#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/file_descriptor.h"

namespace olmoe {

/// An open file of training data, read with pread(2) and not mapped: a file that is cut or a disk
/// that fails while the run reads is then an error like any other, where a mapping raises SIGBUS.
/// Errors are DataError with the path and what the system said. Thread-safe.
class DataFile {
 public:
  /// What changes when a file is written to.
  struct State {
    int64_t size_bytes;
    int64_t modified_ns;  ///< since 1970
  };
  /// Refuses what is no regular file without opening it: a pipe would block.
  explicit DataFile(std::string path);

  State state() const;
  /// Fills `out` with the bytes from `offset` on. A file that ends before is a DataError.
  void read(int64_t offset, std::span<std::byte> out) const;
  enum class Access { random, sequential };
  void advise(Access access) const;

 private:
  std::string path_;
  FileDescriptor file_;
};

}  // namespace olmoe

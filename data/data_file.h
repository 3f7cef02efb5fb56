#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/files/file_descriptor.h"

namespace olmoe {

/// A file of training data, memory-mapped read-only. Bytes are copied out under a guard: if the file was truncated or
/// the disk fails, read() throws DataError with the path instead of SIGBUS ending the process. All errors are
/// DataError. Thread-safe.
class DataFile {
 public:
  /// Size and time of modification, which change when a file is written to.
  struct State {
    int64_t size_bytes;
    int64_t modified_ns;  ///< since 1970
  };
  /// Throws DataError unless `path` is a regular file. Anything else is not opened: a pipe would block.
  explicit DataFile(std::string path);
  ~DataFile();
  DataFile(const DataFile&) = delete;
  DataFile& operator=(const DataFile&) = delete;

  State state() const;
  /// Fills `out` with the bytes from `offset` on. Throws DataError if the file ends before.
  void read(int64_t offset, std::span<std::byte> out) const;
  enum class Access { random, sequential };
  /// Tells the kernel how the file will be read (madvise).
  void advise(Access access) const;

 private:
  std::string path_;
  FileDescriptor file_;
  int64_t mapped_bytes_;
  std::byte* mapping_ = nullptr;  ///< null: the file was empty
};

}  // namespace olmoe

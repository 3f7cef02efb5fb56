#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/files/file_descriptor.h"

namespace olmoe {

/// A file of training data, memory-mapped read-only. Its bytes are copied out: a file that is cut or
/// a disk that fails meanwhile is then a DataError with the path, where the access itself raises
/// SIGBUS and would end the process. Errors are DataError. Thread-safe.
class DataFile {
 public:
  /// What changes when a file is written to.
  struct State {
    int64_t size_bytes;
    int64_t modified_ns;  ///< since 1970
  };
  /// Refuses what is no regular file without opening it: a pipe would block.
  explicit DataFile(std::string path);
  ~DataFile();
  DataFile(const DataFile&) = delete;
  DataFile& operator=(const DataFile&) = delete;

  State state() const;
  /// Fills `out` with the bytes from `offset` on. A file that ends before is a DataError.
  void read(int64_t offset, std::span<std::byte> out) const;
  enum class Access { random, sequential };
  void advise(Access access) const;

 private:
  std::string path_;
  FileDescriptor file_;
  int64_t mapped_bytes_;
  std::byte* mapping_ = nullptr;  ///< null: the file was empty
};

}  // namespace olmoe

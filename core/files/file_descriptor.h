#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "core/error.h"

namespace olmoe {

/// A file that cannot be opened, read or written: the disk's error, or that of whoever may not touch it.
class FileError : public Error {
 public:
  explicit FileError(const std::string& message) : Error(message) {}
};

/// An open file that closes itself. Errors are FileError with the path and errno's text.
class FileDescriptor {
 public:
  /// Opens with open(2)'s flags, close-on-exec added; new files get mode 0644.
  FileDescriptor(const std::string& path, int flags);
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int64_t size_bytes() const;
  bool is_regular() const;
  /// Reads up to buffer.size() bytes; 0 at the end of the file.
  size_t read_some(std::span<std::byte> buffer) const;
  /// Writes all bytes, however many short writes the system makes of it.
  void write_all(std::span<const std::byte> bytes) const;
  void sync() const;
  /// Closes and reports what close(2) reports; the destructor cannot.
  void close();
  int fd() const { return fd_; }

 private:
  [[noreturn]] void fail(const char* action) const;

  std::string path_;
  int fd_ = -1;
};

}  // namespace olmoe

#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/error.h"

namespace olmoe {

/// A file that cannot be opened, read or written.
class FileError : public Error {
 public:
  explicit FileError(const std::string& message, int reason = 0) : Error(message), reason_(reason) {}
  int reason() const { return reason_; }  ///< errno of the call; 0: not known

 private:
  int reason_;
};

/// An open file that closes itself. Errors are FileError with the path, errno and its text. A call that a signal
/// interrupts (EINTR) is made again.
class FileDescriptor {
 public:
  /// Opens with open(2)'s flags, close-on-exec added; new files get mode 0644.
  FileDescriptor(const std::string& path, int flags);
  /// A new file to read and write; none where `path` exists. Of several processes that call it one gets the file.
  static std::optional<FileDescriptor> create_new(const std::string& path);
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int64_t size_bytes() const;
  bool is_regular() const;
  /// Reads up to buffer.size() bytes; 0 at the end of the file.
  size_t read_some(std::span<std::byte> buffer) const;
  /// Reads buffer.size() bytes from byte `begin`, or up to the end of the file. Returns how many.
  size_t read_at(int64_t begin, std::span<std::byte> buffer) const;
  /// Begins to read bytes [begin, begin + size) into the page cache, and does not wait for them.
  void read_ahead(int64_t begin, int64_t size) const;
  /// Drops clean pages of the file from the page cache, so that the next read asks the disk.
  void forget_cached() const;
  /// Begins to bring written bytes [begin, begin + size) from the page cache to the disk, and does not wait for them.
  void begin_write_back(int64_t begin, int64_t size) const;
  /// Waits for that, and drops the pages from the cache. The bytes are durable only after sync().
  void finish_write_back(int64_t begin, int64_t size) const;
  /// Writes all bytes, in several calls of write(2) if it takes them.
  void write_all(std::span<const std::byte> bytes) const;
  /// The same from byte `begin` of the file on.
  void write_at(int64_t begin, std::span<const std::byte> bytes) const;
  /// Cuts a file to `size_bytes`; does nothing to one that is not regular.
  void truncate(int64_t size_bytes) const;
  void sync() const;
  /// Closes and throws if close(2) fails; the destructor ignores that.
  void close();
  int fd() const { return fd_; }

 private:
  FileDescriptor() = default;
  [[noreturn]] void fail(const char* action) const;
  void write_back(int64_t begin, int64_t size, unsigned flags) const;

  std::string path_;
  int fd_ = -1;
};

}  // namespace olmoe

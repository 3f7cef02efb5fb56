#include "core/files/file_descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/process/process_limits.h"

namespace olmoe {
namespace {

struct stat status_of(int fd) {
  struct stat status {};
  ENSURE(::fstat(fd, &status) == 0, "cannot stat an open file: {}", std::strerror(errno));
  return status;
}

/// What `call` returns once no signal interrupts it.
template <class Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

int open_file(const std::string& path, int flags) {
  return uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0644); });
}

}  // namespace

FileDescriptor::FileDescriptor(const std::string& path, int flags) : path_(path), fd_(open_file(path, flags)) {
  if (fd_ < 0) fail("open");
}

std::optional<FileDescriptor> FileDescriptor::create_new(const std::string& path) {
  FileDescriptor file;
  file.path_ = path;
  file.fd_ = open_file(path, O_CREAT | O_EXCL | O_RDWR);
  if (file.fd_ < 0 && errno == EEXIST) return {};
  if (file.fd_ < 0) file.fail("create");
  return file;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

int64_t FileDescriptor::size_bytes() const { return status_of(fd_).st_size; }

bool FileDescriptor::is_regular() const { return S_ISREG(status_of(fd_).st_mode); }

size_t FileDescriptor::read_some(std::span<std::byte> buffer) const {
  const ssize_t count = uninterrupted([&] { return ::read(fd_, buffer.data(), buffer.size()); });
  if (count < 0) fail("read");
  return static_cast<size_t>(count);
}

size_t FileDescriptor::read_at(int64_t begin, std::span<std::byte> buffer) const {
  size_t done = 0;
  while (done < buffer.size()) {
    const auto rest = buffer.subspan(done);
    const ssize_t count =
        uninterrupted([&] { return ::pread(fd_, rest.data(), rest.size(), begin + static_cast<off_t>(done)); });
    if (count < 0) fail("read");
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

void FileDescriptor::read_ahead(int64_t begin, int64_t size) const {
  ::posix_fadvise(fd_, begin, size, POSIX_FADV_WILLNEED);  // advice: what fails here fails or waits in the read
}

void FileDescriptor::forget_cached() const { ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

/// File systems and pipes without sync_file_range(2) leave all to sync(). Others report a failed write here, once.
void FileDescriptor::write_back(int64_t begin, int64_t size, unsigned flags) const {
  const int result = uninterrupted([&] { return ::sync_file_range(fd_, begin, size, flags); });
  const bool unsupported = errno == ENOSYS || errno == EINVAL || errno == ESPIPE || errno == EOPNOTSUPP;
  if (result != 0 && !unsupported) fail("write back");
}

void FileDescriptor::begin_write_back(int64_t begin, int64_t size) const {
  write_back(begin, size, SYNC_FILE_RANGE_WRITE);
}

void FileDescriptor::finish_write_back(int64_t begin, int64_t size) const {
  write_back(begin, size, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  ::posix_fadvise(fd_, begin, size, POSIX_FADV_DONTNEED);
}

void FileDescriptor::write_all(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = uninterrupted([&] { return ::write(fd_, bytes.data(), bytes.size()); });
    if (count < 0) fail("write");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void FileDescriptor::write_at(int64_t begin, std::span<const std::byte> bytes) const {
  for (off_t at = begin; !bytes.empty();) {
    const ssize_t count = uninterrupted([&] { return ::pwrite(fd_, bytes.data(), bytes.size(), at); });
    if (count < 0) fail("write");
    at += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void FileDescriptor::truncate(int64_t size_bytes) const {
  if (is_regular() && uninterrupted([&] { return ::ftruncate(fd_, size_bytes); }) != 0) fail("truncate");
}

void FileDescriptor::sync() const {
  if (uninterrupted([&] { return ::fsync(fd_); }) != 0) fail("fsync");
}

void FileDescriptor::close() {
  // Linux has closed the file when close(2) says that it was interrupted.
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail("close");
}

void FileDescriptor::fail(const char* action) const {
  const int reason = errno;
  throw FileError(fmt::format("cannot {} '{}': {}{}", action, path_, std::strerror(reason), limit_behind(reason)),
                  reason);
}

}  // namespace olmoe

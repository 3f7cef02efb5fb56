#include "core/files/file_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>
#include <cstring>

namespace olmoe {

std::optional<FileLock> FileLock::try_lock(const std::string& path, Kind kind) {
  FileDescriptor file(path, kind == Kind::shared ? O_RDONLY : O_RDWR);
  while (flock(file.fd(), LOCK_NB | (kind == Kind::shared ? LOCK_SH : LOCK_EX)) != 0) {
    if (errno == EWOULDBLOCK) return {};
    if (errno != EINTR) throw FileError(fmt::format("{}: cannot lock: {}", path, std::strerror(errno)), errno);
  }
  return FileLock(std::move(file));
}

}  // namespace olmoe

#include "data/data_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace olmoe {
namespace {

FileDescriptor open_regular(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0)
    throw DataError(fmt::format("{}: {}; check data.paths, data.paths_file and data.root", path,
                                std::strerror(errno)));
  if (S_ISDIR(info.st_mode))
    throw DataError(fmt::format("{}: is a folder; list the token files in it", path));
  if (!S_ISREG(info.st_mode)) throw DataError(fmt::format("{}: is not a regular file", path));
  try {
    return FileDescriptor(path, O_RDONLY);
  } catch (const Error& error) {
    throw DataError(error.what());
  }
}

}  // namespace

DataFile::DataFile(std::string path) : path_(std::move(path)), file_(open_regular(path_)) {}

DataFile::State DataFile::state() const {
  struct stat info;
  if (::fstat(file_.fd(), &info) != 0)
    throw DataError(fmt::format("{}: cannot be looked at: {}", path_, std::strerror(errno)));
  return {info.st_size, info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec};
}

void DataFile::read(int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = ::pread(file_.fd(), out.data(), out.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      throw DataError(
          fmt::format("{}: cannot read at byte {}: {}", path_, offset, std::strerror(errno)));
    if (count == 0)
      throw DataError(
          fmt::format("{}: ends at byte {}, {} bytes too early; it was cut while this "
                      "run reads it",
                      path_, offset, out.size()));
    out = out.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

void DataFile::advise(Access access) const {
  ::posix_fadvise(file_.fd(), 0, 0,
                  access == Access::random ? POSIX_FADV_RANDOM : POSIX_FADV_SEQUENTIAL);
}

}  // namespace olmoe

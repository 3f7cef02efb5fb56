#include "data/data_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/process/bus_errors.h"

namespace olmoe {
namespace {

FileDescriptor open_regular(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0)
    throw DataError(fmt::format("{}: {}; check data.paths, data.paths_file and data.root", path, std::strerror(errno)));
  if (S_ISDIR(info.st_mode)) throw DataError(fmt::format("{}: is a folder; list the token files in it", path));
  if (!S_ISREG(info.st_mode)) throw DataError(fmt::format("{}: is not a regular file", path));
  try {
    return FileDescriptor(path, O_RDONLY);
  } catch (const Error& error) {
    throw DataError(error.what());
  }
}

/// mmap(2) fails with ENOMEM for too many mappings too.
std::string limits_of_mappings(int error) {
  return error == ENOMEM ? "; a process may have as many mappings as sysctl vm.max_map_count says, "
                           "and as much address space as ulimit -v"
                         : "";
}

}  // namespace

DataFile::DataFile(std::string path)
    : path_(std::move(path)), file_(open_regular(path_)), mapped_bytes_(state().size_bytes) {
  if (mapped_bytes_ == 0) return;
  void* const mapping = ::mmap(nullptr, static_cast<size_t>(mapped_bytes_), PROT_READ, MAP_SHARED, file_.fd(), 0);
  if (mapping == MAP_FAILED)
    throw DataError(fmt::format("{}: cannot map {} bytes: {}{}", path_, mapped_bytes_, std::strerror(errno),
                                limits_of_mappings(errno)));
  mapping_ = static_cast<std::byte*>(mapping);
}

DataFile::~DataFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, static_cast<size_t>(mapped_bytes_));
}

DataFile::State DataFile::state() const {
  struct stat info;
  if (::fstat(file_.fd(), &info) != 0) throw DataError(fmt::format("{}: cannot stat: {}", path_, std::strerror(errno)));
  return {info.st_size, info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec};
}

void DataFile::read(int64_t offset, std::span<std::byte> out) const {
  const auto size_bytes = std::ssize(out);
  ENSURE(offset >= 0, "{}: byte {}", path_, offset);
  if (size_bytes == 0) return;
  const bool mapped = offset + size_bytes <= mapped_bytes_;
  if (mapped && guarded_copy(out, mapping_ + offset)) return;
  const int64_t now_bytes = state().size_bytes;
  if (mapped && now_bytes >= offset + size_bytes)
    throw DataError(
        fmt::format("{}: cannot read {} bytes at byte {}: the disk or its server failed", path_, size_bytes, offset));
  throw DataError(fmt::format("{}: ends at byte {}, {} bytes too early; it was truncated during this run", path_,
                              now_bytes, offset + size_bytes - now_bytes));
}

void DataFile::advise(Access access) const {
  if (mapping_ != nullptr)
    ::madvise(mapping_, static_cast<size_t>(mapped_bytes_), access == Access::random ? MADV_RANDOM : MADV_SEQUENTIAL);
}

}  // namespace olmoe

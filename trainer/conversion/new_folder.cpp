#include "trainer/conversion/new_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "trainer/checkpoint/disk_errors.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

/// The absolute path, without a slash at its end.
fs::path target_path(const std::string& target) {
  const auto path = fs::absolute(target).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

[[noreturn]] void refuse_existing(const std::string& target) {
  throw ConfigError(fmt::format("{}: exists already. Name a folder that does not", target));
}

}  // namespace

NewFolder::NewFolder(const std::string& target) : target_(target_path(target)) {
  const fs::path path = target_;
  if (fs::symlink_status(path).type() != fs::file_type::not_found) refuse_existing(target_);
  write_to_disk(path.parent_path(), 0, [&] {
    fs::create_directories(path.parent_path());
    std::string name = path.parent_path() / fmt::format(".tmp_{}.XXXXXX", path.filename().string());
    if (::mkdtemp(name.data()) == nullptr)
      throw FileError(fmt::format("{}: cannot be made: {}", name, std::strerror(errno)));
    temporary_ = name;
    fs::permissions(temporary_, static_cast<fs::perms>(0755));
  });
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void NewFolder::fill(int64_t needed_bytes, const std::function<void(const std::string&)>& work) const {
  try {
    work(temporary_);
  } catch (const Error& error) {
    if (error.code() != ExitCode::internal) throw;
    throw CheckpointError(
        fmt::format("{}. {}", error.what(), disk_advice(fs::path(target_).parent_path(), needed_bytes)));
  }
}

void NewFolder::commit() {
  fsync_folder(temporary_);
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) refuse_existing(target_);
    // File systems without that flag: rename(2) takes the place of an empty folder alone.
    if (errno != EINVAL || std::rename(temporary_.c_str(), target_.c_str()) != 0)
      throw CheckpointError(fmt::format("{}: cannot be renamed to {}: {}", temporary_, target_, std::strerror(errno)));
  }
  temporary_.clear();
  fsync_folder(fs::path(target_).parent_path());
}

}  // namespace olmoe

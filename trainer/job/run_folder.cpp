#include "trainer/job/run_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/files/files.h"

namespace olmoe {

void make_run_folder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::create_directories(folder, error)) fsync_folder(fs::absolute(folder).parent_path());
  if (error) throw ConfigError(fmt::format("run.folder: {} cannot be made: {}", folder, error.message()));
}

std::string low_disk(const std::string& folder, double min_free) {
  std::error_code unknown;
  const auto space = std::filesystem::space(folder, unknown);
  const double free = static_cast<double>(space.available) / (1 << 30);
  if (unknown || free >= min_free) return {};
  return fmt::format("{:.2f} GiB are free below {}, less than checkpoint.min_free: {}", free, folder, min_free);
}

void check_folder_can_be_made(const std::string& folder) {
  namespace fs = std::filesystem;
  // Leaves room for the files in it: checkpoints/.tmp_step_000000001/shard_00001.safetensors.
  constexpr size_t kMostBytes = 3840;
  std::error_code error;
  const auto whole = fs::absolute(folder);
  if (whole.native().size() > kMostBytes)
    throw ConfigError(
        fmt::format("run.folder: {} bytes from the root on, and at most {} leave room for the files in it",
                    whole.native().size(), kMostBytes));
  const fs::path there = existing_folder(folder);
  const auto missing = std::ranges::mismatch(there, whole).in2;  // the first missing part of the path
  if (missing != whole.end() && fs::is_symlink(there / *missing, error))
    throw ConfigError(
        fmt::format("run.folder: {} cannot be made, {} is a link to {}, which is not there; make that "
                    "folder or remove the link",
                    folder, (there / *missing).string(), fs::read_symlink(there / *missing, error).string()));
  if (!fs::is_directory(there, error))
    throw ConfigError(fmt::format("run.folder: {} cannot be made, {} is not a folder", folder, there.string()));
  if (::access(there.c_str(), W_OK | X_OK) != 0)
    throw ConfigError(
        fmt::format("run.folder: {} cannot be written, {}: {}", folder, there.string(), std::strerror(errno)));
}

}  // namespace olmoe

#include "trainer/run_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace olmoe {

void check_folder_can_be_made(const std::string& folder) {
  namespace fs = std::filesystem;
  // What lies in it has names of its own: checkpoints/.tmp_step_000000001/shard_00001.safetensors.
  constexpr size_t kMostBytes = 3840;
  std::error_code error;
  auto there = fs::absolute(folder);
  if (there.native().size() > kMostBytes)
    throw ConfigError(
        fmt::format("run.folder: {} bytes from the root on, and at most {} leave room for the files in it",
                    there.native().size(), kMostBytes));
  while (!fs::exists(there, error) && there.has_relative_path()) {
    if (fs::is_symlink(there, error))
      throw ConfigError(
          fmt::format("run.folder: {} cannot be made, {} is a link to {}, which is not there; make that "
                      "folder or remove the link",
                      folder, there.string(), fs::read_symlink(there, error).string()));
    there = there.parent_path();
  }
  if (!fs::is_directory(there, error))
    throw ConfigError(fmt::format("run.folder: {} cannot be made, {} is not a folder", folder, there.string()));
  if (::access(there.c_str(), W_OK | X_OK) != 0)
    throw ConfigError(
        fmt::format("run.folder: {} cannot be written, {}: {}", folder, there.string(), std::strerror(errno)));
}

}  // namespace olmoe

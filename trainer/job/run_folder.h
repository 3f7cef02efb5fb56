#pragma once
#include <string>

namespace olmoe {

/// Throws ConfigError naming run.folder where it cannot be made or written: a part of its path is not a folder, a
/// broken link, or not writable. Changes nothing.
void check_folder_can_be_made(const std::string& folder);

}  // namespace olmoe

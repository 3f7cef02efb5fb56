#pragma once
#include <string>

namespace olmoe {

/// Throws ConfigError naming run.folder where it cannot be made or written: something on its way is no folder, a link
/// that leads nowhere, or not ours to write. Looks alone and makes nothing.
void check_folder_can_be_made(const std::string& folder);

}  // namespace olmoe

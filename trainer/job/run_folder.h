#pragma once
#include <string>

namespace olmoe {

/// Throws ConfigError naming run.folder where it cannot be made or written: a part of its path is not a folder, a
/// broken link, or not writable. Changes nothing.
void check_folder_can_be_made(const std::string& folder);
/// Makes the folder, unless it is there. Throws ConfigError naming run.folder.
void make_run_folder(const std::string& folder);
/// Says that less than `min_free` GiB (checkpoint.min_free) are free below a folder; empty: there is more, or the file
/// system does not say.
std::string low_disk(const std::string& folder, double min_free);

}  // namespace olmoe

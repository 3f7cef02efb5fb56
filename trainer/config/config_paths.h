#pragma once
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// Makes every path of `config` ready for use, by where `tree` says it came from. What was typed starts from the
/// working directory; of what stands in a file, data.paths_file starts from that file's folder, token files from
/// data.root, all else from the working directory. Token files of the list join data.paths, so that what is left needs
/// neither list nor root. Returns the problems, each with its key and place.
std::vector<std::string> resolve_paths(Config& config, const ConfigNode& tree);

}  // namespace olmoe

#pragma once
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// `paths` with each NAME.txt replaced by the files that it lists, one a line, relative to it. Throws ConfigError.
std::vector<std::string> expand_lists(const std::vector<std::string>& paths);

/// Resolves every path of `config`; `tree` says where each came from. Relative paths start from the working directory,
/// except in a config file: data.paths_file starts from the folder of that file, fields that are marked as data_files()
/// from data.root. Token files of the list are appended to data.paths, and data.paths_file and data.root are cleared;
/// lists of task files are expanded. Returns the problems, each with its key and place.
std::vector<std::string> resolve_paths(Config& config, const ConfigNode& tree);

}  // namespace olmoe

#pragma once
#include <string>
#include <string_view>

namespace olmoe {

/// Resolves a path from a config or the command line: `~` and `~/x` start from $HOME, other relative paths from
/// `folder` (empty: the working directory). The disk is not accessed. Throws ConfigError with the path and what to
/// write instead for `~name`, `$NAME`, control characters, bytes that are not UTF-8, and paths longer than file systems
/// accept.
std::string user_path(std::string_view text, const std::string& folder);

}  // namespace olmoe

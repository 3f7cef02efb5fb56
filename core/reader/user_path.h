#pragma once
#include <string>
#include <string_view>

namespace olmoe {

/// A path as a person wrote it, made ready for use: `~` and `~/x` start from $HOME, other relative
/// ones from `folder` (empty: the working directory). Nothing is looked up on disk. Throws
/// ConfigError with the path and what to write instead: for `~name`, `$NAME`, control characters,
/// bytes that are not UTF-8, and what is longer than file systems take.
std::string user_path(std::string_view text, const std::string& folder);

}  // namespace olmoe

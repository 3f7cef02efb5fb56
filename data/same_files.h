#pragma once
#include <string>
#include <vector>

namespace olmoe {

/// One file found under two paths: the same path twice, or a symbolic or hard link.
struct SameFile {
  std::string first, second;
};

/// Files that a list names more than once: each later path with the first one of its file. Files
/// are told apart by device and inode, so a copy is another file. Paths that cannot be looked at
/// are left out. Never throws on account of a file.
std::vector<SameFile> repeated_files(const std::vector<std::string>& paths);

/// Files of `second` that `first` names too, such as evaluation files among the training files:
/// (path in `first`, path in `second`), in the order of `second`.
std::vector<SameFile> shared_files(const std::vector<std::string>& first, const std::vector<std::string>& second);

}  // namespace olmoe

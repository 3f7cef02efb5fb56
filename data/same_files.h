#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

namespace olmoe {

/// One file found under two paths: the same path twice, or a symbolic or hard link.
struct SameFile {
  std::string first, second;
};

/// A path with what tells files apart, so that a copy is another file.
struct KnownFile {
  std::string path;
  dev_t device;
  ino_t inode;
};
/// Looks at each path once. Paths that cannot be looked at are left out. Never throws on account of
/// a file.
std::vector<KnownFile> identify_files(const std::vector<std::string>& paths);

/// Files that a list names more than once: each later path with the first one of its file.
std::vector<SameFile> repeated_files(const std::vector<KnownFile>& files);

/// Files of `second` that `first` names too, such as evaluation files among the training files:
/// (path in `first`, path in `second`), in the order of `second`.
std::vector<SameFile> shared_files(const std::vector<KnownFile>& first, const std::vector<KnownFile>& second);

}  // namespace olmoe

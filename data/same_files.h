#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

namespace olmoe {

/// Two paths of one file: the same path twice, or a symbolic or hard link.
struct SameFile {
  std::string first, second;
};

/// A path and the identity of its file. A copy is a different file.
struct KnownFile {
  std::string path;
  dev_t device;
  ino_t inode;
};
/// Stats each path once. Paths for which that fails are left out; nothing is thrown.
std::vector<KnownFile> identify_files(const std::vector<std::string>& paths);

/// Files that are listed more than once: each later path with the first path of its file.
std::vector<SameFile> repeated_files(const std::vector<KnownFile>& files);

/// Files that are in both lists, such as evaluation files among the training files: (path in `first`, path in
/// `second`), in the order of `second`.
std::vector<SameFile> shared_files(const std::vector<KnownFile>& first, const std::vector<KnownFile>& second);

}  // namespace olmoe

#include "data/same_files.h"

#include <sys/stat.h>

#include <map>
#include <utility>

namespace olmoe {
namespace {

std::pair<dev_t, ino_t> identity_of(const KnownFile& file) { return {file.device, file.inode}; }

}  // namespace

std::vector<KnownFile> identify_files(const std::vector<std::string>& paths) {
  std::vector<KnownFile> found;
  for (const auto& path : paths) {
    struct stat info;
    if (::stat(path.c_str(), &info) == 0) found.push_back({path, info.st_dev, info.st_ino});
  }
  return found;
}

std::vector<SameFile> repeated_files(const std::vector<KnownFile>& files) {
  std::map<std::pair<dev_t, ino_t>, std::string> first_path;
  std::vector<SameFile> found;
  for (const auto& file : files) {
    const auto [known, is_new] = first_path.emplace(identity_of(file), file.path);
    if (!is_new) found.push_back({known->second, file.path});
  }
  return found;
}

std::vector<SameFile> shared_files(const std::vector<KnownFile>& first, const std::vector<KnownFile>& second) {
  std::map<std::pair<dev_t, ino_t>, std::string> first_path;
  for (const auto& file : first) first_path.emplace(identity_of(file), file.path);
  std::vector<SameFile> found;
  for (const auto& file : second)
    if (const auto known = first_path.find(identity_of(file)); known != first_path.end())
      found.push_back({known->second, file.path});
  return found;
}

}  // namespace olmoe

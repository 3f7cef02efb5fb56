#include "data/same_files.h"

#include <sys/stat.h>

#include <map>
#include <optional>
#include <utility>

namespace olmoe {
namespace {

using Identity = std::pair<dev_t, ino_t>;

std::optional<Identity> identity_of(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return Identity(info.st_dev, info.st_ino);
}

}  // namespace

std::vector<SameFile> repeated_files(const std::vector<std::string>& paths) {
  std::map<Identity, std::string> first_path;
  std::vector<SameFile> found;
  for (const auto& path : paths) {
    const auto identity = identity_of(path);
    if (!identity) continue;
    const auto [known, is_new] = first_path.emplace(*identity, path);
    if (!is_new) found.push_back({known->second, path});
  }
  return found;
}

std::vector<SameFile> shared_files(const std::vector<std::string>& first, const std::vector<std::string>& second) {
  std::map<Identity, std::string> first_path;
  for (const auto& path : first)
    if (const auto identity = identity_of(path)) first_path.emplace(*identity, path);
  std::vector<SameFile> found;
  for (const auto& path : second) {
    const auto identity = identity_of(path);
    if (!identity) continue;
    if (const auto known = first_path.find(*identity); known != first_path.end())
      found.push_back({known->second, path});
  }
  return found;
}

}  // namespace olmoe

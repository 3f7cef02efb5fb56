#include "data/config.h"

#include <filesystem>
#include <fstream>

namespace olmoe {
namespace {

/// Without white space at both ends: lists are edited by hand, also on systems that end lines with
/// \r\n.
std::string trimmed(const std::string& text) {
  constexpr const char* kWhitespace = " \t\r\n";
  const size_t first = text.find_first_not_of(kWhitespace);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(kWhitespace) - first + 1);
}

std::vector<std::string> read_list(const std::filesystem::path& list) {
  std::ifstream file(list);
  if (!file || std::filesystem::is_directory(list))
    throw ConfigError(fmt::format(
        "data.paths_file: cannot read {}; it must be a text file with one token file a line",
        list.string()));
  std::vector<std::string> paths;
  for (std::string line; std::getline(file, line);) {
    line = trimmed(line);
    if (!line.empty() && line[0] != '#') paths.push_back(line);
  }
  return paths;
}

}  // namespace

std::vector<std::string> token_paths(const DataConfig& config, const std::string& config_folder) {
  std::vector<std::string> paths = config.paths;
  if (!config.paths_file.empty()) {
    const auto listed = read_list(std::filesystem::path(config_folder) / config.paths_file);
    paths.insert(paths.end(), listed.begin(), listed.end());
  }
  // An absolute path on the right of / stays as it is.
  for (std::string& path : paths) path = (std::filesystem::path(config.root) / path).string();
  return paths;
}

std::vector<std::string> missing_files(const std::vector<std::string>& paths) {
  std::vector<std::string> missing;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) missing.push_back(path);
  }
  return missing;
}

}  // namespace olmoe

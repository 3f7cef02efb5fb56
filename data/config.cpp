#include "data/config.h"

#include <filesystem>
#include <sstream>

#include "core/files/files.h"
#include "core/reader/user_path.h"

namespace olmoe {
namespace {

constexpr int64_t kMaxListBytes = 256 << 20;

/// `text` without white space at both ends. Lists may have lines that end in \r\n.
std::string trimmed(const std::string& text) {
  constexpr const char* kWhitespace = " \t\r\n";
  const size_t first = text.find_first_not_of(kWhitespace);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(kWhitespace) - first + 1);
}

}  // namespace

std::vector<std::string> validate(std::span<const SkipRange> ranges) {
  std::vector<std::string> problems;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const auto& [unit, first, last] = ranges[i];
    if (last < first) problems.push_back(fmt::format("data.skip[{}].last: {} is below first: {}", i, last, first));
    if (unit == SkipUnit::steps && first < 1)
      problems.push_back(fmt::format("data.skip[{}].first: steps are counted from 1", i));
  }
  return problems;
}

std::vector<std::string> validate(const InstanceFilter& filter) {
  const auto [count, shortest, longest] = filter;
  if (!filter.is_on()) {
    if (filter.repetition_min_period == InstanceFilter{}.repetition_min_period &&
        filter.repetition_max_period == InstanceFilter{}.repetition_max_period)
      return {};
    return {"data.instance_filter.repetition_max_count: 0 masks nothing, so that its periods have no effect"};
  }
  std::vector<std::string> problems;
  if (count < 3)
    problems.push_back(fmt::format(
        "data.instance_filter.repetition_max_count: {} of a block are no repetition; use at least 3, or 0 for none",
        count));
  if (longest < shortest)
    problems.push_back(fmt::format("data.instance_filter.repetition_max_period: {} is below repetition_min_period: {}",
                                   longest, shortest));
  return problems;
}

std::vector<std::string> validate_documents(const DataConfig& config, int64_t vocab_size) {
  std::vector<std::string> problems;
  const bool by_eos = config.document_mask == DocumentMask::eos;
  if (by_eos && !config.eos_id)
    problems.emplace_back("data.eos_id: document_mask: eos needs the id of the token that ends a document");
  if (!by_eos && config.eos_id) problems.emplace_back("data.eos_id: it has no effect without document_mask: eos");
  if (config.eos_id && (*config.eos_id < 0 || *config.eos_id >= vocab_size))
    problems.push_back(
        fmt::format("data.eos_id: {} is not an id below model.vocab_size = {}", *config.eos_id, vocab_size));
  if (config.document_mask == DocumentMask::table && config.synthetic)
    problems.emplace_back("data.document_mask: table needs token files, and data.synthetic has none; use eos");
  return problems;
}

std::vector<std::string> read_path_list(const std::string& list, const std::string& root) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  std::string text;
  try {
    text = read_text(list, kMaxListBytes);
  } catch (const Error& error) {
    throw ConfigError(fmt::format("{}; a list is a text file with one token file a line", error.what()));
  }
  std::istringstream lines(text.substr(text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0));
  std::vector<std::string> paths;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    line = trimmed(line);
    if (line.empty() || line[0] == '#') continue;
    try {
      paths.push_back(user_path(line, root));
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("{}:{}: {}", list, number, error.what()));
    }
  }
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

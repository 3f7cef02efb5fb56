#include "core/reader/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "core/files/files.h"
#include "core/reader/config_reader_yaml.h"
#include "core/reader/user_path.h"

namespace olmoe {
namespace {

using Kind = ConfigNode::Kind;
using Problems = std::vector<std::string>;

constexpr std::string_view kCommandLine = "command line";
constexpr size_t kMaxBases = 16;
constexpr size_t kMaxProblems = 200;

/// `named_at`: where a config names this file as its base; empty for the user's file.
std::string read_file(const std::string& path, const std::string& named_at = {}) {
  try {
    return read_text(path, kMaxConfigBytes);
  } catch (const Error& error) {
    throw ConfigError(named_at.empty() ? error.what() : fmt::format("base: {} ({})", error.what(), named_at));
  }
}

/// The path of a base, relative to the file that names it.
std::string path_of_base(const ConfigNode& base) {
  try {
    const auto path = user_path(base.text, std::filesystem::path(base.file).parent_path());
    return std::filesystem::path(path).lexically_normal();
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("base: {} ({})", error.what(), base.where));
  }
}

/// The merged tree of a config and its bases. `chain`: the files that led here, beginning with the user's.
ConfigNode load(const std::string& text, const std::vector<std::string>& chain, Problems& problems) {
  const std::string& source = chain.back();
  ConfigNode root = parse_yaml(text, {source}, problems);
  if (root.kind == Kind::null) root = ConfigNode::section();
  if (root.kind != Kind::section) throw ConfigError(source + ": a config is a section: lines of 'key: value'");
  root.where = root.file = source;
  const auto key = std::find(root.keys.begin(), root.keys.end(), "base");
  if (key == root.keys.end()) return root;

  const auto item = root.items.begin() + (key - root.keys.begin());
  const ConfigNode base = *item;
  root.keys.erase(key);
  root.items.erase(item);
  if (base.kind != Kind::scalar) throw ConfigError(fmt::format("base: expected the path of a file ({})", base.where));
  const std::string path = path_of_base(base);
  const bool is_cycle = std::any_of(chain.begin(), chain.end(), [&](const std::string& earlier) {
    std::error_code ignored;  // a missing file is not a cycle; reading it reports the error
    return std::filesystem::equivalent(path, earlier, ignored);
  });
  std::vector<std::string> longer = chain;
  longer.push_back(path);
  if (is_cycle || longer.size() > kMaxBases)
    throw ConfigError(fmt::format("base: {}: {} ({})", is_cycle ? "a cycle" : "too many bases",
                                  fmt::join(longer, " -> "), base.where));
  ConfigNode tree = load(read_file(path, base.where), longer, problems);
  tree.merge(std::move(root));
  tree.where = source;
  return tree;
}

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(kSpace) - first + 1));
}

/// True if all of `text` was parsed into the node; a document marker, for example, is dropped.
bool is_whole(const ConfigNode& node, const std::string& text) {
  if (node.kind == Kind::null) return text == "~" || text == "null" || text == "Null" || text == "NULL";
  return node.kind != Kind::scalar || node.quoted || node.text == text;
}

/// The value of an override; empty text if there is none: shells remove the quotes of `key=""`.
ConfigNode parse_typed(const std::string& path, const std::string& text, Problems& problems) {
  ConfigNode node = ConfigNode::scalar("", /*quoted=*/true);
  const std::string value = trimmed(text);
  const auto refuse = [&](std::string_view why) {
    throw ConfigError(
        fmt::format("{}: {}; text that looks like YAML needs quotes of its own: '{}=\"...\"'", path, why, path));
  };
  if (value.empty()) return node;
  try {
    node = parse_yaml(text, {std::string(kCommandLine), /*command_line=*/true}, problems);
  } catch (const ConfigError& error) {
    refuse(error.what());
  }
  if (!is_whole(node, value) || scan_yaml_line(value) == LineEnd::comment)
    refuse(fmt::format("of '{}' only '{}' would be read ({})", printable(value), printable(node.inline_text()),
                       kCommandLine));
  return node;
}

bool is_key_path(const std::string& path) {
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.'; };
  return !path.empty() && std::all_of(path.begin(), path.end(), is_plain) && path.front() != '.' &&
         path.back() != '.' && path.find("..") == std::string::npos &&
         static_cast<size_t>(std::count(path.begin(), path.end(), '.')) < kMaxConfigDepth;
}

/// `a.b=value` as the tree {a: {b: value}}, ready to be merged.
ConfigNode parse_override(const std::string& text, Problems& problems) {
  const size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  if (equals == std::string::npos || !is_key_path(path))
    throw ConfigError(fmt::format("{}: expected path.to.key=value ({})", printable(text), kCommandLine));
  if (path == "base") throw ConfigError(fmt::format("base: is allowed in a file only ({})", kCommandLine));
  ConfigNode node = parse_typed(path, text.substr(equals + 1), problems);
  node.where = kCommandLine;
  for (size_t end = path.size(); end != std::string::npos && end > 0;) {
    const size_t dot = path.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    ConfigNode section = ConfigNode::section(std::string(kCommandLine));
    section.add(path.substr(begin, end - begin), std::move(node));
    node = std::move(section);
    end = dot;
  }
  return node;
}

/// The tree of a config, read into `fields`; none if the text did not parse.
std::optional<ConfigNode> read_into(const ConfigFields& fields, const std::string& text, const std::string& source,
                                    const std::vector<std::string>& overrides, ConfigReading& reading) {
  Problems& problems = reading.problems;
  std::optional<ConfigNode> tree;
  const auto noting = [&problems](const auto& step) {
    try {
      step();
    } catch (const ConfigError& error) {
      problems.push_back(error.what());
    }
  };
  noting([&] { tree = load(text, {source}, problems); });
  for (const std::string& text_of_edit : overrides)
    noting([&] {
      ConfigNode edit = parse_override(text_of_edit, problems);
      if (tree) tree->merge(std::move(edit));
    });
  // If a file did not parse only that is reported: all its fields would be missing.
  if (tree) config_detail::read_fields({*tree, "", reading}, fields);
  return tree;
}

/// As many as a message may have, and the number of the others.
Problems first_of(Problems problems) {
  const size_t more = problems.size() - std::min(problems.size(), kMaxProblems);
  problems.resize(problems.size() - more);
  if (more > 0) problems.push_back(fmt::format("... and {} more problems", more));
  return problems;
}

}  // namespace

namespace config_detail {

/// Throws one ConfigError with all problems.
ConfigNode read_or_throw(const ConfigFields& fields, const std::string& text, const std::string& source_name,
                         const std::vector<std::string>& overrides) {
  ConfigReading reading{.known_paths = leaf_paths(fields)};
  auto read = read_into(fields, text, source_name, overrides, reading);
  if (reading.problems.empty()) return std::move(*read);
  throw ConfigError(fmt::format("{}", fmt::join(first_of(std::move(reading.problems)), "\n")));
}

void read_text_into(const ConfigFields& fields, const std::string& text, const std::string& source_name,
                    const std::vector<std::string>& overrides) {
  read_or_throw(fields, text, source_name, overrides);
}

std::vector<std::string> read_saved_into(const ConfigFields& fields, const std::string& text,
                                         std::vector<UnknownSetting>& unknown) {
  ConfigReading reading{.known_paths = leaf_paths(fields), .old_names = OldNames::accepted, .unknown = &unknown};
  read_into(fields, text, "saved config", {}, reading);
  return first_of(std::move(reading.problems));
}

void read_file_into(const ConfigFields& fields, const std::string& path, const std::vector<std::string>& overrides,
                    ConfigNode* tree) {
  auto read = read_or_throw(fields, read_file(path), path, overrides);
  if (tree != nullptr) *tree = std::move(read);
}

}  // namespace config_detail
}  // namespace olmoe

#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/reader/config_node.h"

namespace olmoe {

/// The source of a text to be parsed.
struct YamlSource {
  std::string name;           ///< for messages: the file's path
  bool command_line = false;  ///< the value of an override, which has no file and no lines
};

/// Limits of a file that users name as a config, and of the levels in any config.
inline constexpr int64_t kMaxConfigBytes = 256 << 20;
inline constexpr size_t kMaxConfigDepth = 32;

/// What a line of YAML, taken alone, ends in: a comment, or a quote that is still open.
enum class LineEnd { plain, comment, open_quote };
LineEnd scan_yaml_line(std::string_view line);

/// The tree of one YAML document; a null node if it is empty. Duplicate keys are added to `problems`. Throws
/// ConfigError with the line for invalid YAML, and for what a config may not use: several documents, anchors, aliases,
/// tags, values of several lines.
ConfigNode parse_yaml(const std::string& text, const YamlSource& source, std::vector<std::string>& problems);

}  // namespace olmoe

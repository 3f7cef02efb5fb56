#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/reader/config_node.h"

namespace olmoe {

/// Where text to be parsed comes from.
struct YamlSource {
  std::string name;           ///< for messages: the file's path
  bool command_line = false;  ///< the value of an override: it has no lines and belongs to no file
};

/// The bounds of a config's text, beyond which it is refused, not read.
inline constexpr int64_t kMaxConfigBytes = 32 << 20;
inline constexpr size_t kMaxConfigDepth = 32;

/// What a line of YAML ends in, as far as it alone tells: a comment, or a quote that is still open.
enum class LineEnd { plain, comment, open_quote };
LineEnd scan_yaml_line(std::string_view line);

/// The tree of one YAML document; null where it is empty. Keys that stand twice are added to
/// `problems`. Throws ConfigError with the line on what is no YAML, and on what a config may not
/// use: several documents, anchors, aliases, tags, values that go on over several lines.
ConfigNode parse_yaml(const std::string& text, const YamlSource& source, std::vector<std::string>& problems);

}  // namespace olmoe

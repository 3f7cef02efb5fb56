#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace olmoe {

/// A node of a parsed, untyped config: null, a scalar, a list, or a section of named nodes, with the file and line (or
/// the command line) that it came from.
struct ConfigNode {
  enum class Kind { null, scalar, list, section };

  Kind kind = Kind::null;
  std::string text;               ///< of a scalar
  bool quoted = false;            ///< a scalar in quotes is always text
  std::vector<std::string> keys;  ///< of a section: keys[i] names items[i]
  std::vector<ConfigNode> items;  ///< of a list or a section
  std::string where;              ///< "configs/x.yaml:12" or "command line"
  std::string file;               ///< "configs/x.yaml"; empty for the command line

  static ConfigNode scalar(std::string text, bool quoted = false);
  static ConfigNode section(std::string where = {});

  /// The node of that key, or null if the section lacks it.
  const ConfigNode* find(std::string_view key) const;
  void add(std::string key, ConfigNode node);
  /// Overrides with `over`: sections merge key by key, everything else is replaced.
  void merge(ConfigNode over);
  /// The value on one line, in YAML's flow style: `[0.9, 0.95]`.
  std::string inline_text() const;
  /// The whole section as a YAML document.
  std::string yaml() const;
};

/// `text` for one line of a message: bytes that are not printable UTF-8 escaped, truncated after 60 bytes.
std::string printable(std::string_view text);

/// The candidate that `word` most likely misspells; empty if none is near.
std::string_view nearest_word(std::string_view word, const std::vector<std::string_view>& candidates);
/// The candidates that share most parts with `name`, of those between its underscores, one of them maybe in the plural;
/// none where no part is shared.
std::vector<std::string_view> names_of_equal_parts(std::string_view name,
                                                   const std::vector<std::string_view>& candidates);

}  // namespace olmoe

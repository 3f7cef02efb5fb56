#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace olmoe {

/// A parsed config, before it has types: null, a scalar, a list, or a section of named nodes. Every
/// node knows the file and line (or the command line) it came from.
struct ConfigNode {
  enum class Kind { null, scalar, list, section };

  Kind kind = Kind::null;
  std::string text;               ///< of a scalar
  bool quoted = false;            ///< a scalar in quotes is text, whatever it looks like
  std::vector<std::string> keys;  ///< of a section: keys[i] names items[i]
  std::vector<ConfigNode> items;  ///< of a list or a section
  std::string where;              ///< "configs/x.yaml:12" or "command line"
  std::string file;               ///< "configs/x.yaml"; empty for what was typed

  static ConfigNode scalar(std::string text, bool quoted = false);
  static ConfigNode section(std::string where = {});

  /// The node of that key, or null where a section lacks it.
  const ConfigNode* find(std::string_view key) const;
  void add(std::string key, ConfigNode node);
  /// Lays `over` on top: sections merge key by key, everything else is replaced whole.
  void merge(ConfigNode over);
  /// The value on one line, in YAML's flow style: `[0.9, 0.95]`.
  std::string inline_text() const;
  /// The whole section as a YAML document.
  std::string yaml() const;
};

/// `text` fit for one line of a message: escaped where it is no printable UTF-8, cut after 60 bytes.
std::string printable(std::string_view text);

/// The candidate that `word` most likely misspells, or empty when none is near.
std::string_view nearest_word(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace olmoe

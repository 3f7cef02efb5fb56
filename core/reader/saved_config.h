#pragma once
#include <string>
#include <vector>

namespace olmoe {

/// Whether what another version wrote into a config, and this one does not know, is an error or is left out.
enum class UnknownKeys { refused, ignored };

/// A key that this program does not know, or a word that it does not know of a key that it knows.
struct UnknownSetting {
  std::string key;    ///< its path, "log.wandb.project"
  std::string value;  ///< on one line, truncated after 60 bytes
  std::string words;  ///< of a known key, those that it may have: "one of nccl, host"; empty: the key is unknown
};

/// A config that this or another version of the program wrote, without what this one does not know: a key with an
/// unknown word has its default.
template <class T>
struct SavedConfig {
  T config{};
  std::vector<UnknownSetting> unknown;
  std::vector<std::string> problems;  ///< others: keys that are missing, values of another type or out of range
};

}  // namespace olmoe

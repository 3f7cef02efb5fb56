#pragma once
#include <string>

namespace olmoe {

/// What a checkpoint says of the training tokens: the hash of samples of all files and, with
/// data.verify: full, that of all bytes too ("<samples>+full:<bytes>").
std::string join_fingerprint(const std::string& samples, const std::string& all_bytes);

/// Whether the tokens of a checkpoint are those of a run. All bytes are compared where both have
/// their hash; else the samples are, and `note` says what that leaves open.
struct FingerprintComparison {
  bool same;
  std::string note;
};
FingerprintComparison compare_fingerprints(const std::string& checkpoint, const std::string& run);

}  // namespace olmoe

#pragma once
#include <string>

namespace olmoe {

/// The fingerprint of the training tokens in a checkpoint: the hash of samples of all files and, with data.verify:
/// full, the hash of all bytes ("<samples>+full:<bytes>").
std::string join_fingerprint(const std::string& samples, const std::string& all_bytes);

/// Whether a checkpoint and a run have the same training tokens. The hashes of all bytes are compared if both have one;
/// else those of samples, and `note` warns that no more was compared.
struct FingerprintComparison {
  bool same;
  std::string note;
};
FingerprintComparison compare_fingerprints(const std::string& checkpoint, const std::string& run);

}  // namespace olmoe

#include "data/fingerprint.h"

#include <string_view>

namespace olmoe {
namespace {

constexpr std::string_view kFull = "+full:";

struct Parts {
  std::string samples, all_bytes;
};

Parts split(const std::string& fingerprint) {
  const size_t mark = fingerprint.find(kFull);
  if (mark == std::string::npos) return {fingerprint, ""};
  return {fingerprint.substr(0, mark), fingerprint.substr(mark + kFull.size())};
}

}  // namespace

std::string join_fingerprint(const std::string& samples, const std::string& all_bytes) {
  return all_bytes.empty() ? samples : samples + std::string(kFull) + all_bytes;
}

FingerprintComparison compare_fingerprints(const std::string& checkpoint, const std::string& run) {
  const auto before = split(checkpoint), now = split(run);
  if (before.samples != now.samples) return {false, ""};
  if (before.all_bytes.empty() && now.all_bytes.empty()) return {true, ""};
  if (before.all_bytes.empty())
    return {true,
            "data.verify: full, but the checkpoint was saved with sample: only samples of the training tokens were "
            "compared; the next checkpoint will have the hash of all bytes"};
  if (now.all_bytes.empty())
    return {true,
            "data.verify: sample, but the checkpoint was saved with full: only samples of the training tokens were "
            "compared; the next checkpoint will have no hash of all bytes"};
  return {before.all_bytes == now.all_bytes, ""};
}

}  // namespace olmoe

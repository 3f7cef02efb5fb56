#include "model/block/attention_variants.h"

#include <algorithm>

namespace olmoe {

double AttentionSpec::mean_keys(int64_t positions) const {
  const auto S = static_cast<double>(positions), w = static_cast<double>(most_keys(positions));
  return w * (2 * S - w) / (2 * S);
}

bool AttentionVariants::has_windows() const {
  return std::ranges::any_of(attention_windows, [](int64_t window) { return window != 0; });
}

std::vector<std::string> problems_of(const AttentionVariants& variants, int64_t num_layers) {
  constexpr int64_t kWidest = 1 << 24;  // as data.sequence_length
  std::vector<std::string> problems;
  const auto check_length = [&](const char* key, size_t length) {
    if (static_cast<int64_t>(length) > num_layers)
      problems.push_back(
          fmt::format("{}: a pattern of {} blocks is longer than num_layers = {}", key, length, num_layers));
  };
  check_length("attention_windows", variants.attention_windows.size());
  check_length("position_embeddings", variants.position_embeddings.size());
  for (const int64_t window : variants.attention_windows)
    if (window < 0 || window > kWidest)
      problems.push_back(fmt::format("attention_windows: {} must be between 0 and {}", window, kWidest));
  return problems;
}

}  // namespace olmoe

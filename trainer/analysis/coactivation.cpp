#include "trainer/analysis/coactivation.h"

#include <ATen/ops/zeros.h>

namespace olmoe {

Coactivation::Coactivation(const AnalysisShape& shape)
    : pairs_LEE_(at::zeros({shape.layers, shape.experts, shape.experts}, at::kLong)),
      adjacent_LEE_(pairs_LEE_.clone()),
      counts_LE_(at::zeros({shape.layers, shape.experts}, at::kLong)) {}

void Coactivation::add(const RoutedTokens& tokens) {
  const int64_t L = counts_LE_.size(0), E = counts_LE_.size(1), N = tokens.num_tokens();
  const int64_t K = tokens.experts_LNK.size(2);
  const auto* expert = tokens.experts_LNK.const_data_ptr<int32_t>();
  for (int64_t l = 0; l < L; ++l) {
    auto* const pairs = pairs_LEE_.data_ptr<int64_t>() + l * E * E;
    auto* const adjacent = adjacent_LEE_.data_ptr<int64_t>() + l * E * E;
    auto* const counts = counts_LE_.data_ptr<int64_t>() + l * E;
    for (int64_t n = 0; n < N; ++n, expert += K)
      for (int64_t k = 0; k < K; ++k) {
        ++counts[expert[k]];
        for (int64_t j = 0; j < k; ++j) ++pairs[expert[k] * E + expert[j]], ++pairs[expert[j] * E + expert[k]];
        if (k > 0) ++adjacent[expert[k] * E + expert[k - 1]], ++adjacent[expert[k - 1] * E + expert[k]];
      }
  }
}

std::vector<NamedArray> Coactivation::arrays() const {
  return {{"coactivation.pairs", pairs_LEE_},
          {"coactivation.adjacent", adjacent_LEE_},
          {"coactivation.conditional", ratio(pairs_LEE_, counts_LE_.unsqueeze(2))}};
}

}  // namespace olmoe

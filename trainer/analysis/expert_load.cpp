#include "trainer/analysis/expert_load.h"

#include <ATen/ops/zeros.h>

namespace olmoe {

ExpertLoad::ExpertLoad(const AnalysisShape& shape)
    : counts_GLE_(at::zeros({shape.domains, shape.layers, shape.experts}, at::kLong)),
      top_1_GLE_(counts_GLE_.clone()),
      tokens_G_(at::zeros({shape.domains}, at::kLong)) {}

void ExpertLoad::add(const RoutedTokens& tokens) {
  const int64_t L = counts_GLE_.size(1), E = counts_GLE_.size(2), N = tokens.num_tokens();
  const int64_t K = tokens.experts_LNK.size(2);
  const auto* expert = tokens.experts_LNK.const_data_ptr<int32_t>();
  auto* const counts = counts_GLE_.data_ptr<int64_t>() + tokens.domain * L * E;
  auto* const top_1 = top_1_GLE_.data_ptr<int64_t>() + tokens.domain * L * E;
  for (int64_t l = 0; l < L; ++l)
    for (int64_t n = 0; n < N; ++n, expert += K) {
      ++top_1[l * E + expert[0]];
      for (int64_t k = 0; k < K; ++k) ++counts[l * E + expert[k]];
    }
  tokens_G_.data_ptr<int64_t>()[tokens.domain] += N;
}

std::vector<NamedArray> ExpertLoad::arrays() const {
  const auto tokens_G11 = tokens_G_.view({-1, 1, 1});
  return {{"load.counts", counts_GLE_},
          {"load.top_1", top_1_GLE_},
          {"load.tokens", tokens_G_},
          {"domains.share", ratio(counts_GLE_, tokens_G11)},
          {"domains.share_top_1", ratio(top_1_GLE_, tokens_G11)}};
}

}  // namespace olmoe

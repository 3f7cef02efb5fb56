#include "trainer/analysis/vocabulary.h"

#include <ATen/TensorOperators.h>

namespace olmoe {
namespace {

constexpr std::array kKinds{"input", "next", "predicted"};

/// Mean over ids of the largest count of an id over its tokens: [T].
at::Tensor specialization(const at::Tensor& counts_TUE, const at::Tensor& tokens_TU) {
  return ratio(counts_TUE.amax({2}), tokens_TU).mean(1);
}

}  // namespace

Vocabulary::Vocabulary(const AnalysisShape& shape)
    : kinds_{Kind{IdCounts(shape), IdCounts(shape)}, Kind{IdCounts(shape), IdCounts(shape)},
             Kind{IdCounts(shape), IdCounts(shape)}} {}

void Vocabulary::add(const RoutedTokens& tokens) {
  const int64_t N = tokens.num_tokens(), K = tokens.experts_LNK.size(2);
  const std::array ids{tokens.ids_BS.const_data_ptr<int64_t>(), tokens.next_BS.const_data_ptr<int64_t>(),
                       tokens.predicted_BS.const_data_ptr<int64_t>()};
  for (size_t kind = 0; kind < kinds_.size(); ++kind)
    for (int64_t n = 0; n < N; ++n) {
      kinds_[kind].all.add(tokens, n, ids[kind][n], K);
      kinds_[kind].top_1.add(tokens, n, ids[kind][n], 1);
    }
}

std::vector<at::Tensor> Vocabulary::counts() {
  std::vector<at::Tensor> out;
  for (auto& kind : kinds_) out.push_back(kind.all.counts()), out.push_back(kind.top_1.counts());
  return out;
}

std::vector<NamedArray> Vocabulary::arrays() const {
  std::vector<NamedArray> out;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const auto prefix = std::string("vocabulary.") + kKinds[k] + ".";
    const auto ids_U = kinds_[k].top_1.ids_with(1);
    const auto all_TUE = kinds_[k].all.of(ids_U), top_1_TUE = kinds_[k].top_1.of(ids_U);
    const auto tokens_TU = top_1_TUE.sum(2);
    out.push_back({prefix + "ids", ids_U});
    out.push_back({prefix + "counts", all_TUE});
    out.push_back({prefix + "top_1", top_1_TUE});
    out.push_back({prefix + "specialization", specialization(all_TUE, tokens_TU)});
    out.push_back({prefix + "specialization_top_1", specialization(top_1_TUE, tokens_TU)});
  }
  return out;
}

}  // namespace olmoe

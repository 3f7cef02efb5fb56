#include "trainer/analysis/layer_flow.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace olmoe {
namespace {

std::vector<std::pair<int64_t, int64_t>> layer_pairs(int64_t layers) {
  std::vector<std::pair<int64_t, int64_t>> out;
  for (int64_t l = 0; l + 1 < layers; ++l) out.emplace_back(l, l + 1);
  const int64_t last = layers - 1, middle = last / 2;
  for (const auto& pair : {std::pair(int64_t{0}, middle), std::pair(middle, last)})
    if (pair.first < pair.second && std::find(out.begin(), out.end(), pair) == out.end()) out.push_back(pair);
  return out;
}

}  // namespace

LayerFlow::LayerFlow(const AnalysisShape& shape)
    : layers_(layer_pairs(shape.layers)),
      pairs_PEE_(at::zeros({static_cast<int64_t>(layers_.size()), shape.experts, shape.experts}, at::kLong)),
      same_slot_PEE_(pairs_PEE_.clone()) {}

void LayerFlow::add(const RoutedTokens& tokens) {
  const int64_t E = pairs_PEE_.size(1), N = tokens.num_tokens(), K = tokens.experts_LNK.size(2);
  const auto* const experts = tokens.experts_LNK.const_data_ptr<int32_t>();
  auto* pairs = pairs_PEE_.data_ptr<int64_t>();
  auto* same_slot = same_slot_PEE_.data_ptr<int64_t>();
  for (const auto& [earlier, later] : layers_) {
    const auto *from = experts + earlier * N * K, *to = experts + later * N * K;
    for (int64_t n = 0; n < N; ++n, from += K, to += K)
      for (int64_t k = 0; k < K; ++k) {
        ++same_slot[from[k] * E + to[k]];
        for (int64_t j = 0; j < K; ++j) ++pairs[from[k] * E + to[j]];
      }
    pairs += E * E;
    same_slot += E * E;
  }
}

std::vector<NamedArray> LayerFlow::arrays() const {
  auto layers_P2 = at::empty({static_cast<int64_t>(layers_.size()), 2}, at::kLong);
  auto* layer = layers_P2.data_ptr<int64_t>();
  for (const auto& [earlier, later] : layers_) *layer++ = earlier, *layer++ = later;
  return {{"flow.layers", layers_P2}, {"flow.pairs", pairs_PEE_}, {"flow.same_slot", same_slot_PEE_}};
}

}  // namespace olmoe

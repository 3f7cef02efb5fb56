#include "trainer/analysis/id_counts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"

namespace olmoe {

IdCounts::IdCounts(const AnalysisShape& shape)
    : layers_(shape.table_layers),
      counts_TVE_(
          at::zeros({static_cast<int64_t>(shape.table_layers.size()), shape.vocab_size, shape.experts}, at::kLong)) {
  ENSURE(!layers_.empty(), "counts by id of no layer");
  for (const int64_t layer : layers_)
    ENSURE(layer >= 0 && layer < shape.layers, "counts by id of layer {}: there are {}", layer, shape.layers);
}

void IdCounts::add(const RoutedTokens& tokens, int64_t n, int64_t id, int64_t slots) {
  const int64_t V = counts_TVE_.size(1), E = counts_TVE_.size(2);
  if (id < 0 || id >= V) return;
  const int64_t N = tokens.experts_LNK.size(1), K = tokens.experts_LNK.size(2);
  const auto* const experts = tokens.experts_LNK.const_data_ptr<int32_t>();
  auto* const counts = counts_TVE_.data_ptr<int64_t>();
  for (size_t t = 0; t < layers_.size(); ++t) {
    const auto* const expert = experts + (layers_[t] * N + n) * K;
    auto* const row = counts + (static_cast<int64_t>(t) * V + id) * E;
    for (int64_t k = 0; k < slots; ++k) ++row[expert[k]];
  }
}

at::Tensor IdCounts::of(const at::Tensor& ids_U) const { return counts_TVE_.index_select(1, ids_U); }

at::Tensor IdCounts::ids_with(int64_t least) const {
  return counts_TVE_.select(0, 0).sum(1).ge(least).nonzero().flatten();
}

at::Tensor share_deviation(const at::Tensor& counts_E) {
  return ratio(counts_E, counts_E.sum(-1, /*keepdim=*/true)).std(-1, /*unbiased=*/false);
}

at::Tensor share_variation(const at::Tensor& a_E, const at::Tensor& b_E) {
  const auto sum_a = a_E.sum(-1, /*keepdim=*/true), sum_b = b_E.sum(-1, /*keepdim=*/true);
  const auto gap = (ratio(a_E, sum_a) - ratio(b_E, sum_b)).abs().sum(-1) * 0.5;
  return gap * sum_a.squeeze(-1).gt(0).to(at::kDouble) * sum_b.squeeze(-1).gt(0).to(at::kDouble);
}

}  // namespace olmoe

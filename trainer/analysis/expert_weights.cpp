#include "trainer/analysis/expert_weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace olmoe {

at::Tensor expert_products(const ReadExperts& read, int64_t experts, int64_t elements, int64_t piece) {
  auto products_EE = at::zeros({experts, experts}, at::kDouble);
  for (int64_t begin = 0; begin < elements; begin += piece) {
    const int64_t count = std::min(piece, elements - begin);
    auto rows = at::empty({experts, count}, at::kDouble);
    for (int64_t e = 0; e < experts; ++e) {
      auto row = at::empty({count}, at::kFloat);
      read(e, begin, row);
      rows[e].copy_(row);
    }
    products_EE.add_(rows.matmul(rows.t()));
  }
  return products_EE;
}

at::Tensor cosines(const at::Tensor& products_EE) {
  const auto length_E = products_EE.diagonal().sqrt();
  const auto both_EE = length_E.unsqueeze(0) * length_E.unsqueeze(1);
  return at::where(both_EE.gt(0), products_EE / both_EE, at::zeros_like(products_EE));
}

SuperExperts super_experts(const at::Tensor& peaks_LE) {
  const auto sorted = std::get<0>(peaks_LE.flatten().sort());
  const auto* const value = sorted.const_data_ptr<double>();
  // Linear between the two nearest ranks, as numpy.percentile computes it.
  const double rank = 0.995 * static_cast<double>(sorted.numel() - 1);
  const auto below = static_cast<int64_t>(rank);
  const int64_t above = std::min(below + 1, sorted.numel() - 1);
  SuperExperts out{value[below] + (rank - static_cast<double>(below)) * (value[above] - value[below]),
                   value[sorted.numel() - 1] / 10,
                   {}};
  const auto peaks = peaks_LE.contiguous();
  const auto* const peak = peaks.const_data_ptr<double>();
  for (int64_t i = 0; i < peaks.numel(); ++i)
    if (peak[i] > out.percentile && peak[i] > out.tenth_of_largest)
      out.found.push_back({i / peaks.size(1), i % peaks.size(1), peak[i]});
  std::stable_sort(out.found.begin(), out.found.end(), [](const auto& a, const auto& b) { return a.peak > b.peak; });
  return out;
}

}  // namespace olmoe

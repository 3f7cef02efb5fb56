#include "trainer/analysis/drops.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace olmoe {

Drops::Drops(const AnalysisShape& shape, int64_t capacity)
    : shape_(shape),
      capacity_(capacity),
      sequences_G_(at::zeros({shape.domains}, at::kLong)),
      assignments_GLS_(at::zeros({shape.domains, shape.layers, shape.sequence_length}, at::kLong)),
      partial_GLS_(assignments_GLS_.clone()),
      lost_GLS_(assignments_GLS_.clone()),
      shuffled_GLS_(assignments_GLS_.clone()) {
  ENSURE(capacity > 0, "drops at a capacity of {} assignments", capacity);
}

/// The token at each position of a sequence whose order is random, and the same in every layout.
std::vector<int64_t> Drops::shuffled_positions(uint64_t first_token) const {
  std::vector<int64_t> order(static_cast<size_t>(shape_.sequence_length));
  std::iota(order.begin(), order.end(), int64_t{0});
  const RandomStream random(0, "order of a sequence");
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.bits(first_token + i - 1) % i]);
  return order;
}

void Drops::add(const RoutedTokens& tokens) {
  const int64_t S = shape_.sequence_length, L = shape_.layers, K = shape_.top_k, N = tokens.num_tokens();
  const auto* const experts = tokens.experts_LNK.const_data_ptr<int32_t>();
  const auto of_domain = [&](at::Tensor& counts_GLS) { return counts_GLS.data_ptr<int64_t>() + tokens.domain * L * S; };
  auto *const assignments = of_domain(assignments_GLS_), *const partial = of_domain(partial_GLS_);
  auto *const lost = of_domain(lost_GLS_), *const shuffled = of_domain(shuffled_GLS_);
  std::vector<int64_t> taken(static_cast<size_t>(shape_.experts));
  const auto drops_of = [&](int64_t l, int64_t n) {
    int64_t dropped = 0;
    for (int64_t k = 0; k < K; ++k)
      dropped += taken[static_cast<size_t>(experts[(l * N + n) * K + k])]++ >= capacity_ ? 1 : 0;
    return dropped;
  };
  for (int64_t begin = 0; begin < N; begin += S) {
    const auto order = shuffled_positions(static_cast<uint64_t>(tokens.first + begin));
    for (int64_t l = 0; l < L; ++l) {
      std::fill(taken.begin(), taken.end(), 0);
      for (int64_t s = 0; s < S; ++s) {
        const int64_t dropped = drops_of(l, begin + s);
        assignments[l * S + s] += dropped;
        partial[l * S + s] += dropped > 0 ? 1 : 0;
        lost[l * S + s] += dropped == K ? 1 : 0;
      }
      std::fill(taken.begin(), taken.end(), 0);
      for (int64_t s = 0; s < S; ++s) shuffled[l * S + s] += drops_of(l, begin + order[static_cast<size_t>(s)]);
    }
  }
  sequences_G_.data_ptr<int64_t>()[tokens.domain] += N / S;
}

std::vector<NamedArray> Drops::arrays() const {
  return {{"drops.sequences", sequences_G_},
          {"drops.assignments", assignments_GLS_},
          {"drops.partial", partial_GLS_},
          {"drops.lost", lost_GLS_},
          {"drops.shuffled", shuffled_GLS_}};
}

}  // namespace olmoe

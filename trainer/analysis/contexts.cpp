#include "trainer/analysis/contexts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include "core/random.h"

namespace olmoe {

Contexts::Contexts(const AnalysisShape& shape)
    : shape_(shape),
      all_(shape),
      after_first_(shape),
      after_second_(shape),
      random_(shape),
      positions_SLE_(at::zeros({shape.sequence_length, shape.layers, shape.experts}, at::kLong)) {}

void Contexts::add_positions(const RoutedTokens& tokens) {
  const int64_t S = shape_.sequence_length, L = shape_.layers, E = shape_.experts, K = shape_.top_k;
  const auto* expert = tokens.experts_LNK.const_data_ptr<int32_t>();
  auto* const positions = positions_SLE_.data_ptr<int64_t>();
  for (int64_t l = 0; l < L; ++l)
    for (int64_t n = 0; n < tokens.num_tokens(); ++n, expert += K)
      for (int64_t k = 0; k < K; ++k) ++positions[((n % S) * L + l) * E + expert[k]];
}

void Contexts::add(const RoutedTokens& tokens) {
  const int64_t S = shape_.sequence_length, K = shape_.top_k;
  const RandomStream halves_of_ids(0, "halves of ids"), halves_of_tokens(0, "halves of tokens");
  const auto* const ids = tokens.ids_BS.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < tokens.num_tokens(); ++n) {
    all_.add(tokens, n, ids[n], K);
    if (n % S == 0) continue;  // nothing is before it
    const bool first = halves_of_ids.bits(static_cast<uint64_t>(ids[n - 1])) % 2 == 0;
    (first ? after_first_ : after_second_).add(tokens, n, ids[n], K);
    if (halves_of_tokens.bits(static_cast<uint64_t>(tokens.first + n)) % 2 == 0) random_.add(tokens, n, ids[n], K);
  }
  add_positions(tokens);
}

std::vector<at::Tensor> Contexts::counts() {
  return {all_.counts(), after_first_.counts(), after_second_.counts(), random_.counts(), positions_SLE_};
}

std::vector<NamedArray> Contexts::arrays() const {
  const auto ids_U = all_.ids_with(shape_.min_count * shape_.top_k);
  const auto all_TUE = all_.of(ids_U), first_TUE = after_first_.of(ids_U), second_TUE = after_second_.of(ids_U);
  const auto random_TUE = random_.of(ids_U);
  const auto assignments_U = all_TUE.select(0, 0).sum(1);
  const auto K = static_cast<double>(shape_.top_k), E = static_cast<double>(shape_.experts);
  const auto chance_U = (1 / assignments_U.to(at::kDouble) * ((1 - K / E) / E)).sqrt();
  return {{"contexts.ids", ids_U},
          {"contexts.tokens", assignments_U.floor_divide(shape_.top_k)},
          {"contexts.deviation", share_deviation(all_TUE)},
          {"contexts.chance", chance_U},
          {"contexts.positions", positions_SLE_},
          {"contexts.position_deviation", share_deviation(positions_SLE_)},
          {"contexts.by_previous", share_variation(first_TUE, second_TUE)},
          {"contexts.at_random", share_variation(random_TUE, first_TUE + second_TUE - random_TUE)}};
}

}  // namespace olmoe

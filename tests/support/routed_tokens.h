// Random routed tokens, and the same as ones in [L, N, E] where a token chose an expert.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/error.h"
#include "core/targets.h"
#include "trainer/analysis/statistic.h"

namespace olmoe::test {

/// Two domains, three layers, six experts of which a token chooses three.
inline AnalysisShape small_analysis() {
  return {.domains = 2,
          .layers = 3,
          .experts = 6,
          .top_k = 3,
          .vocab_size = 11,
          .sequence_length = 8,
          .table_layers = {0, 2},
          .min_count = 4};
}

/// `sequences` of them; tokens number from `first` on.
inline RoutedTokens random_tokens(const AnalysisShape& shape, uint64_t seed, int64_t sequences, int64_t first = 0,
                                  int64_t domain = 0) {
  auto generator = at::detail::createCPUGenerator(seed);
  const int64_t S = shape.sequence_length, N = sequences * S;
  const auto ids = [&] { return at::randint(shape.vocab_size, {sequences, S}, generator, at::kLong); };
  RoutedTokens out{.first = first, .domain = domain, .ids_BS = ids(), .next_BS = ids(), .predicted_BS = ids()};
  out.next_BS.select(1, S - 1).fill_(kIgnoredTarget);
  // Experts of low numbers are chosen more often.
  const auto keys_LNE = at::rand({shape.layers, N, shape.experts}, generator, at::TensorOptions().dtype(at::kDouble)) +
                        at::arange(shape.experts, at::kDouble) * 0.1;
  out.experts_LNK = keys_LNE.argsort(int64_t{2}).narrow(2, 0, shape.top_k).to(at::kInt).contiguous();
  return out;
}

/// Four batches of both domains.
inline std::vector<RoutedTokens> random_batches(const AnalysisShape& shape, uint64_t seed = 1) {
  std::vector<RoutedTokens> out;
  int64_t first = 0;
  for (const int64_t sequences : {3, 2, 4, 1}) {
    out.push_back(random_tokens(shape, seed + out.size(), sequences, first, static_cast<int64_t>(out.size()) / 2));
    first += sequences * shape.sequence_length;
  }
  return out;
}

/// int64 [L, N, E]: 1 where one of the first `slots` experts of a token is e.
inline at::Tensor one_hot(const RoutedTokens& tokens, const AnalysisShape& shape, int64_t slots) {
  return at::one_hot(tokens.experts_LNK.narrow(2, 0, slots).to(at::kLong), shape.experts).sum(2);
}

inline at::Tensor find_array(const std::vector<NamedArray>& arrays, const std::string& name) {
  for (const auto& array : arrays)
    if (array.name == name) return array.values;
  throw Error("no array " + name);
}

}  // namespace olmoe::test

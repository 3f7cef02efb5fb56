// Shapes: as in trainer/analysis/statistic.h.
#pragma once
#include "trainer/analysis/statistic.h"

namespace olmoe {

/// Drop-towards-the-end: assignments that a capacity drops, or would drop of a model without one. An expert takes the
/// first `capacity` assignments of a sequence, by position and then by score, and drops the rest.
///   drops.sequences [G]           each of S tokens
///   drops.assignments [G, L, S]   dropped, of K at each position of each sequence
///   drops.partial [G, L, S]       tokens that lost at least one of them; drops.lost: tokens that lost all
///   drops.shuffled [G, L, S]      as assignments, where the tokens of each sequence come in a random order: what is
///                                 left of a slope is of the order alone
/// Source: arXiv 2402.01739 section 4.3; the unit there is a token, partial or lost is not said.
class Drops final : public Statistic {
 public:
  Drops(const AnalysisShape& shape, int64_t capacity);
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override {
    return {sequences_G_, assignments_GLS_, partial_GLS_, lost_GLS_, shuffled_GLS_};
  }
  std::vector<NamedArray> arrays() const override;

 private:
  std::vector<int64_t> shuffled_positions(uint64_t first_token) const;

  const AnalysisShape shape_;
  const int64_t capacity_;
  at::Tensor sequences_G_, assignments_GLS_, partial_GLS_, lost_GLS_, shuffled_GLS_;
};

}  // namespace olmoe

// Shapes: as in trainer/analysis/statistic.h; U ids that occur.
#pragma once
#include "trainer/analysis/statistic.h"

namespace olmoe {

/// Assignments by layer, id and expert, of the layers that have tables.
class IdCounts {
 public:
  explicit IdCounts(const AnalysisShape& shape);
  /// Adds `slots` first experts of token n, for which `id` stands. Ids outside the vocabulary, such as those of targets
  /// without loss, are left out.
  void add(const RoutedTokens& tokens, int64_t n, int64_t id, int64_t slots);
  at::Tensor counts() const { return counts_TVE_; }
  /// Those of ids [U] (int64): [T, U, E].
  at::Tensor of(const at::Tensor& ids_U) const;
  /// The ids with at least `least` assignments in each table, ascending.
  at::Tensor ids_with(int64_t least) const;

 private:
  std::vector<int64_t> layers_;
  at::Tensor counts_TVE_;
};

/// Standard deviation over experts (of all of them: no correction) of shares of assignments: counts [..., E] to [...].
/// Source: arXiv 2402.01739 (OpenMoE), figures 13 and 14.
at::Tensor share_deviation(const at::Tensor& counts_E);
/// Half the summed gap between the shares of two sets of assignments, [..., E] to [...]: 0 equal, 1 disjoint. 0 where
/// one of them is empty.
at::Tensor share_variation(const at::Tensor& a_E, const at::Tensor& b_E);

}  // namespace olmoe

// Shapes: as in trainer/analysis/statistic.h; U ids with at least min_count tokens.
#pragma once
#include "trainer/analysis/id_counts.h"

namespace olmoe {

/// Context-independent specialization: how unevenly tokens of an id, or at a position, choose experts, in any context:
///   contexts.ids, contexts.tokens [U]
///   contexts.deviation [T, U]         standard deviation over experts of the share of the id's assignments
///   contexts.chance [U]               its root mean square where as many tokens choose K of E at random
///   contexts.positions [S, L, E]      assignments at a position; contexts.position_deviation [S, L]
///   contexts.by_previous [T, U]       total variation between the tokens of an id after one half of all ids and those
///                                     after the other half; contexts.at_random [T, U]: between random halves
/// Source: arXiv 2402.01739 section 4; the chance level and the halves are ours.
class Contexts final : public Statistic {
 public:
  explicit Contexts(const AnalysisShape& shape);
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override;
  std::vector<NamedArray> arrays() const override;

 private:
  void add_positions(const RoutedTokens& tokens);

  const AnalysisShape shape_;
  IdCounts all_, after_first_, after_second_, random_;  // of the ids that may follow; one random half
  at::Tensor positions_SLE_;
};

}  // namespace olmoe

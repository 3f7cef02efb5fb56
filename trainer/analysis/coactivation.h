// Shapes: as in trainer/analysis/statistic.h.
#pragma once
#include "trainer/analysis/statistic.h"

namespace olmoe {

/// Experts that are chosen together.
///   coactivation.pairs [L, E, E]        N_ij: tokens that chose both i and j; symmetric, of zero diagonal; rows sum to
///                                       (K - 1) N_i
///   coactivation.adjacent [L, E, E]     only of experts next to each other in a token's order by score, both ways:
///   what
///                                       OLMoE's published script counts
///   coactivation.conditional [L, E, E]  P(j | i) = N_ij / N_i
/// Source: arXiv 2409.02060 section 5.2; allenai/OLMoE, scripts/run_moe_analysis.py.
class Coactivation final : public Statistic {
 public:
  explicit Coactivation(const AnalysisShape& shape);
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override { return {pairs_LEE_, adjacent_LEE_, counts_LE_}; }
  std::vector<NamedArray> arrays() const override;

 private:
  at::Tensor pairs_LEE_, adjacent_LEE_, counts_LE_;
};

}  // namespace olmoe

// Shapes: as in trainer/analysis/statistic.h; P pairs of layers.
#pragma once
#include <utility>

#include "trainer/analysis/statistic.h"

namespace olmoe {

/// Which experts of a later layer follow those of an earlier one.
///   flow.layers [P, 2]        pairs of layers: neighbours; the first and the middle one, the middle and the last one
///   flow.pairs [P, E, E]      tokens that chose i in the earlier and j in the later layer: K x K pairs of each token
///   flow.same_slot [P, E, E]  only of experts at the same place in a token's order by score, which is what OLMoE's
///                             published script counts
/// Source: arXiv 2409.02060 section 5; allenai/OLMoE, scripts/run_routing_analysis.py.
class LayerFlow final : public Statistic {
 public:
  explicit LayerFlow(const AnalysisShape& shape);
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override { return {pairs_PEE_, same_slot_PEE_}; }
  std::vector<NamedArray> arrays() const override;

 private:
  std::vector<std::pair<int64_t, int64_t>> layers_;
  at::Tensor pairs_PEE_, same_slot_PEE_;
};

}  // namespace olmoe

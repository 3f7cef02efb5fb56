// Shapes: as in trainer/analysis/statistic.h.
#pragma once
#include "trainer/analysis/statistic.h"

namespace olmoe {

/// Load of experts, and their domain specialization.
///   load.counts [G, L, E]   tokens of a domain that an expert is among the K of
///   load.top_1 [G, L, E]    of those, tokens that it has the highest score of
///   load.tokens [G]
///   domains.share, domains.share_top_1 [G, L, E]   the same as shares of the domain's tokens; K/E, 1/E if uniform
/// Source: arXiv 2409.02060 section 5.3.
class ExpertLoad final : public Statistic {
 public:
  explicit ExpertLoad(const AnalysisShape& shape);
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override { return {counts_GLE_, top_1_GLE_, tokens_G_}; }
  std::vector<NamedArray> arrays() const override;

 private:
  at::Tensor counts_GLE_, top_1_GLE_, tokens_G_;
};

}  // namespace olmoe

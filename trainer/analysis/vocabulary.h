// Shapes: as in trainer/analysis/statistic.h; U ids that occur, of a kind: input, next or predicted.
#pragma once
#include <array>

#include "trainer/analysis/id_counts.h"

namespace olmoe {

/// Vocabulary specialization, by the id of a token (input), the id that follows it (next), and the one that the model
/// finds most likely to (predicted). Of each KIND:
///   vocabulary.KIND.ids [U], .counts [T, U, E], .top_1 [T, U, E]
///   vocabulary.KIND.specialization, .specialization_top_1 [T]   mean over ids of the share of an id's tokens that
///                                                               choose the expert which most of them choose
/// Source: arXiv 2409.02060 section 5.4; allenai/OLMoE, scripts/run_moe_analysis.py.
class Vocabulary final : public Statistic {
 public:
  explicit Vocabulary(const AnalysisShape& shape);
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override;
  std::vector<NamedArray> arrays() const override;

 private:
  struct Kind {
    IdCounts all, top_1;
  };
  std::array<Kind, 3> kinds_;
};

}  // namespace olmoe

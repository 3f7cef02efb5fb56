// Shapes: as in trainer/analysis/statistic.h; C checkpoints, the last of them the reference.
#pragma once
#include <map>

#include "trainer/analysis/id_counts.h"

namespace olmoe {

/// Router saturation: the share of a token's experts that the last checkpoint chooses for it too.
///   saturation.top_k [C, L]   mean over tokens of |chosen by both| / K
///   saturation.top_1 [C, L]   share of tokens whose expert of the highest score is the same
/// and their counts saturation.same [C, L, 2] (top-k assignments, top-1 tokens) of saturation.tokens [C].
/// Source: arXiv 2409.02060 section 5.1.
class Saturation final : public Statistic {
 public:
  /// The tokens of each checkpoint are added in turn (begin), those of the last one first.
  Saturation(const AnalysisShape& shape, int64_t checkpoints);
  /// Counts of `checkpoint` follow. Those of the last one are kept until this object ends: 2 bytes an assignment.
  void begin(int64_t checkpoint);
  /// Throws Error where the last checkpoint was not given the same tokens.
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override { return {same_CL2_, tokens_C_}; }
  std::vector<NamedArray> arrays() const override;

 private:
  const int64_t top_k_;
  int64_t checkpoint_ = 0;
  at::Tensor same_CL2_, tokens_C_;
  std::map<int64_t, at::Tensor> kept_;  // int16 [L, N, K] of the last checkpoint, by RoutedTokens::first
};

/// Early routing: how far the experts of an id are from those of the last checkpoint. U ids with at least min_count
/// tokens, of which there are equally many for each checkpoint.
///   early.ids [U]
///   early.id_variation [C, T, U]   total variation between the shares of the id's assignments
///   early.variation [C, T]         its mean over ids
/// Source: arXiv 2402.01739 section 4, where figures overlay such shares; the distance is ours.
class EarlyRouting final : public Statistic {
 public:
  EarlyRouting(const AnalysisShape& shape, int64_t checkpoints);
  void begin(int64_t checkpoint) { checkpoint_ = checkpoint; }
  void add(const RoutedTokens& tokens) override;
  std::vector<at::Tensor> counts() override;
  std::vector<NamedArray> arrays() const override;

 private:
  const AnalysisShape shape_;
  int64_t checkpoint_ = 0;
  std::vector<IdCounts> counts_;  // of each checkpoint
};

}  // namespace olmoe

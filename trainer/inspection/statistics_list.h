#pragma once
#include <memory>
#include <string>
#include <vector>

#include "trainer/analysis/saturation.h"
#include "trainer/analysis/statistic.h"

namespace olmoe {

/// load, coactivation, flow, vocabulary, contexts, saturation, early, drops, similarity and super.
const std::vector<std::string>& statistic_names();

/// The statistics of an analysis, fed with the tokens of one checkpoint after the other. Load, saturation and early
/// routing are of all checkpoints; the others are of the last one alone.
class StatisticsList {
 public:
  /// `capacity`: assignments of a sequence that an expert takes; 0 without drops. Names that are not of counts of
  /// tokens (similarity, super) are left to the caller.
  StatisticsList(const std::vector<std::string>& names, const AnalysisShape& shape, int64_t checkpoints,
                 int64_t capacity);
  /// The tokens that follow are of `checkpoint`.
  void begin(int64_t checkpoint);
  void add(const RoutedTokens& tokens);
  std::vector<at::Tensor> counts();
  /// Those of load with C checkpoints in front: load.counts [C, G, L, E].
  std::vector<NamedArray> arrays() const;

 private:
  std::vector<std::unique_ptr<Statistic>> load_;  // of each checkpoint, where it is asked for
  std::unique_ptr<Saturation> saturation_;
  std::unique_ptr<EarlyRouting> early_;
  std::vector<std::unique_ptr<Statistic>> last_;  // of the last checkpoint
  int64_t checkpoint_ = 0;
  const int64_t checkpoints_;
};

}  // namespace olmoe

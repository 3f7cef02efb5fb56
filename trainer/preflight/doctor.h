#pragma once
#include <string>
#include <vector>

namespace olmoe {

/// One figure that every rank measures of itself; more is better.
struct Measure {
  std::string name, unit;
  double slow_below;  ///< a rank under this share of the median is slow
};

/// What one rank is and measured.
struct RankReport {
  std::string host, device;           ///< for people
  std::vector<double> values;         ///< of each Measure; NaN where it could not be measured
  std::vector<std::string> problems;  ///< what alone forbids a run on this rank
};

/// Whether a run may start. Empty reasons: go.
struct Verdict {
  std::vector<std::string> reasons;  ///< one sentence each, with the rank that it is about
  bool go() const { return reasons.empty(); }
};

/// The middle of the values that are numbers, the upper one of two; NaN where none is.
double median(std::vector<double> values);
/// Problems of any rank, figures that are missing, and ranks that are slow beside the median of their measure.
Verdict judge(const std::vector<Measure>& measures, const std::vector<RankReport>& ranks);
/// One table: a line for each rank with its figures, the medians, and the verdict with its reasons.
std::string describe(const std::vector<Measure>& measures, const std::vector<RankReport>& ranks,
                     const Verdict& verdict);

}  // namespace olmoe

#pragma once
#include <string>
#include <vector>

namespace olmoe {

/// A figure that every rank measures; larger is better.
struct Measure {
  std::string name, unit;
  double slow_below;  ///< a rank under this share of the median is slow
};

/// What one rank is and measured.
struct RankReport {
  std::string host, device;           ///< for people
  std::vector<double> values;         ///< of each Measure; NaN where it could not be measured
  std::vector<std::string> problems;  ///< each of which forbids a run
};

/// Whether a run may start: go without reasons.
struct Verdict {
  std::vector<std::string> reasons;  ///< one sentence each, with the rank that it is about
  bool go() const { return reasons.empty(); }
};

/// Median of the values without NaN, the upper one of two; NaN without values.
double median(std::vector<double> values);
/// Collects problems of any rank, missing figures, and ranks that are slow compared with the median of a measure.
Verdict judge(const std::vector<Measure>& measures, const std::vector<RankReport>& ranks);
/// One table: a line for each rank with its figures, the medians, and the verdict with its reasons.
std::string describe(const std::vector<Measure>& measures, const std::vector<RankReport>& ranks,
                     const Verdict& verdict);

}  // namespace olmoe

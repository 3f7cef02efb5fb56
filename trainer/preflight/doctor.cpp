#include "trainer/preflight/doctor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace olmoe {
namespace {

/// The figures of all ranks for one measure.
std::vector<double> column(const std::vector<RankReport>& ranks, size_t measure) {
  std::vector<double> out;
  for (const auto& rank : ranks) out.push_back(rank.values.at(measure));
  return out;
}

std::string figure(double value) { return std::isnan(value) ? "-" : fmt::format("{:.4g}", value); }

std::string cell(const std::string& text, size_t width) { return fmt::format("  {:>{}}", text, width); }

}  // namespace

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Verdict judge(const std::vector<Measure>& measures, const std::vector<RankReport>& ranks) {
  Verdict verdict;
  for (size_t r = 0; r < ranks.size(); ++r)
    for (const auto& problem : ranks[r].problems)
      verdict.reasons.push_back(fmt::format("rank {} ({}): {}", r, ranks[r].host, problem));
  for (size_t m = 0; m < measures.size(); ++m) {
    const auto& [name, unit, slow_below] = measures[m];
    const double middle = median(column(ranks, m));
    for (size_t r = 0; r < ranks.size(); ++r) {
      const double value = ranks[r].values[m];
      if (std::isnan(value))
        verdict.reasons.push_back(fmt::format("rank {} ({}): {} was not measured", r, ranks[r].host, name));
      else if (value < slow_below * middle)
        verdict.reasons.push_back(fmt::format("rank {} ({}): {} {} {} is below {} x the median, {} {}", r,
                                              ranks[r].host, name, figure(value), unit, slow_below, figure(middle),
                                              unit));
    }
  }
  return verdict;
}

std::string describe(const std::vector<Measure>& measures, const std::vector<RankReport>& ranks,
                     const Verdict& verdict) {
  constexpr size_t kNarrow = 8;
  std::vector<size_t> widths;
  std::string header = "  rank", middles = "median";
  for (size_t m = 0; m < measures.size(); ++m) {
    const auto title = fmt::format("{} {}", measures[m].name, measures[m].unit);
    widths.push_back(std::max(kNarrow, title.size()));
    header += cell(title, widths.back());
    middles += cell(figure(median(column(ranks, m))), widths.back());
  }
  std::string out = header + "  where\n";
  for (size_t r = 0; r < ranks.size(); ++r) {
    out += fmt::format("{:>6}", r);
    for (size_t m = 0; m < measures.size(); ++m) out += cell(figure(ranks[r].values[m]), widths[m]);
    out += fmt::format("  {}: {}\n", ranks[r].host, ranks[r].device);
  }
  out += middles + "\n";
  for (const auto& reason : verdict.reasons) out += fmt::format("{}\n", reason);
  return out + (verdict.go() ? "go\n" : fmt::format("no go, reasons: {}\n", verdict.reasons.size()));
}

}  // namespace olmoe

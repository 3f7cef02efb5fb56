#include "trainer/config/checkpoint_config.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/utf8.h"

namespace olmoe {
namespace {

std::string problem_of_metric(const CheckpointConfig& config, const EvaluationConfig& evaluation) {
  std::vector<std::string> known;
  for (const auto& set : evaluation_sets(evaluation)) known.push_back(fmt::format("eval/{}/loss", set.name));
  if (config.keep_best == 0 || std::ranges::find(known, config.keep_best_metric) != known.end()) return {};
  const auto& metric = config.keep_best_metric;
  return fmt::format(
      "checkpoint.keep_best_metric: {}; checkpoint.keep_best = {} needs {}",
      metric.empty() ? "is not set" : printable(metric) + " is no metric of this run's evaluations", config.keep_best,
      known.empty() ? "an evaluation: evaluation.paths" : "one of " + fmt::format("{}", fmt::join(known, ", ")));
}

}  // namespace

std::vector<std::string> validate(const CheckpointConfig& config, const EvaluationConfig& evaluation) {
  std::vector<std::string> problems;
  for (size_t i = 1; i < config.cadence.size(); ++i)
    if (const auto before = config.cadence[i - 1].until_step; config.cadence[i].until_step <= before)
      problems.push_back(
          fmt::format("checkpoint.cadence[{}].until_step: {} must be above {}, that of the interval "
                      "before",
                      i, config.cadence[i].until_step, before));
  if (auto problem = problem_of_metric(config, evaluation); !problem.empty()) problems.push_back(std::move(problem));
  return problems;
}

}  // namespace olmoe

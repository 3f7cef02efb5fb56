#include "trainer/config/checkpoint_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/utf8.h"

namespace olmoe {
namespace {

std::string problem_of_metric(const CheckpointConfig& config, const EvaluationConfig& evaluation) {
  std::vector<std::string> known;
  for (const auto& set : evaluation_sets(evaluation)) known.push_back(fmt::format("eval/{}/loss", set.name));
  const auto& metric = config.keep_best_metric;
  if (config.keep_best == 0 || std::ranges::find(known, metric) != known.end()) return {};
  for (const auto& task : evaluation_tasks(evaluation)) {
    if (task.at_end_only) continue;
    for (const auto* const result : kTaskResults)
      if (metric == fmt::format("eval/{}/{}", task.name, result)) return {};
    known.push_back(fmt::format("eval/{}/METRIC", task.name));
  }
  return fmt::format(
      "checkpoint.keep_best_metric: {}; checkpoint.keep_best = {} needs {}",
      metric.empty() ? "is not set" : printable(metric) + " is no metric of this run's evaluations", config.keep_best,
      known.empty() ? "an evaluation: evaluation.paths" : "one of " + fmt::format("{}", fmt::join(known, ", ")));
}

/// The step in "120"; none for "newest", -1 for anything else.
std::optional<int64_t> parse_resume(const std::string& text) {
  if (text == "newest") return {};
  int64_t step = -1;
  const auto* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, step);
  return read.ec == std::errc() && read.ptr == end && step >= 1 && step <= kMostSteps ? step : -1;
}

/// Of the commands that send checkpoints: each needs the one before it.
std::string problem_of_sending(const CheckpointConfig& config) {
  if (!config.verify_copy.empty() && config.after_save.empty())
    return "checkpoint.verify_copy: needs checkpoint.after_save, whose copies it looks at";
  if (config.delete_local == DeleteLocal::after_verified && config.verify_copy.empty())
    return "checkpoint.delete_local: after_verified needs checkpoint.after_save and checkpoint.verify_copy";
  return {};
}

}  // namespace

std::optional<int64_t> resume_step(const CheckpointConfig& config) {
  const auto step = parse_resume(config.resume);
  ENSURE(step != -1, "checkpoint.resume: {}", config.resume);
  return step;
}

std::vector<std::string> validate(const CheckpointConfig& config, const EvaluationConfig& evaluation) {
  std::vector<std::string> problems;
  for (size_t i = 1; i < config.cadence.size(); ++i)
    if (const auto before = config.cadence[i - 1].until_step; config.cadence[i].until_step <= before)
      problems.push_back(
          fmt::format("checkpoint.cadence[{}].until_step: {} must be above {}, that of the interval "
                      "before",
                      i, config.cadence[i].until_step, before));
  if (parse_resume(config.resume) == -1)
    problems.push_back(fmt::format("checkpoint.resume: {} is neither 'newest' nor a step from 1 to {}",
                                   printable(config.resume), kMostSteps));
  if (auto problem = problem_of_metric(config, evaluation); !problem.empty()) problems.push_back(std::move(problem));
  if (auto problem = problem_of_sending(config); !problem.empty()) problems.push_back(std::move(problem));
  return problems;
}

}  // namespace olmoe

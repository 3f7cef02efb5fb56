#include "trainer/checkpoint/retention.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"

namespace olmoe {
namespace {

std::vector<SavedStep> newest_first(std::span<const SavedStep> saved) {
  std::vector<SavedStep> sorted(saved.begin(), saved.end());
  std::ranges::sort(sorted, std::greater{}, &SavedStep::step);
  const auto twice = std::ranges::adjacent_find(sorted, {}, &SavedStep::step);
  ENSURE(twice == sorted.end(), "checkpoint {} is listed twice", twice->step);
  return sorted;
}

/// Steps of the best metrics, `policy.keep_best` at most.
std::set<int64_t> best_steps(std::span<const SavedStep> saved, const CheckpointConfig& policy) {
  std::vector<SavedStep> measured;
  for (const auto& one : saved)
    if (one.metric && std::isfinite(*one.metric)) measured.push_back(one);
  const auto is_better = [&](const SavedStep& a, const SavedStep& b) {
    if (*a.metric == *b.metric) return a.step < b.step;
    return policy.keep_best_mode == BestMode::min ? *a.metric < *b.metric : *a.metric > *b.metric;
  };
  std::ranges::sort(measured, is_better);
  std::set<int64_t> best;
  for (const auto& one : measured)
    if (std::ssize(best) < policy.keep_best) best.insert(one.step);
  return best;
}

}  // namespace

std::vector<int64_t> steps_to_remove(std::span<const SavedStep> saved, const CheckpointConfig& policy) {
  const auto sorted = newest_first(saved);
  if (policy.keep == 0) return {};
  const auto best = best_steps(sorted, policy);
  std::vector<int64_t> removed;
  for (int64_t age = 0; age < std::ssize(sorted); ++age) {
    const auto& [step, metric, in_use] = sorted[static_cast<size_t>(age)];
    const bool for_ever = policy.keep_every_steps > 0 && step % policy.keep_every_steps == 0;
    if (age >= policy.keep && !for_ever && !in_use && !best.contains(step)) removed.push_back(step);
  }
  std::ranges::reverse(removed);
  return removed;
}

}  // namespace olmoe

// Which checkpoints stay: a table, and made-up runs against the rule as one sentence for each checkpoint.
#include "trainer/checkpoint/retention.h"

#include <cmath>
#include <limits>
#include <random>

#include "core/error.h"
#include "support/catch.h"

namespace {

using namespace olmoe;
using Steps = std::vector<int64_t>;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<SavedStep> steps_of(const Steps& steps) {
  std::vector<SavedStep> saved;
  for (const int64_t step : steps) saved.push_back({.step = step});
  return saved;
}

CheckpointConfig policy_of(int64_t keep, int64_t keep_every_steps = 0, int64_t keep_best = 0) {
  CheckpointConfig policy;
  policy.keep = keep;
  policy.keep_every_steps = keep_every_steps;
  policy.keep_best = keep_best;
  return policy;
}

bool is_measured(const SavedStep& one) { return one.metric && std::isfinite(*one.metric); }

/// The rule, asked of one checkpoint: how many are newer, how many are better.
bool stays(const SavedStep& one, const std::vector<SavedStep>& saved, const CheckpointConfig& policy) {
  int64_t newer = 0, better = 0;
  for (const auto& other : saved) {
    newer += other.step > one.step ? 1 : 0;
    if (!is_measured(other) || !is_measured(one)) continue;
    const double gain =
        policy.keep_best_mode == BestMode::max ? *other.metric - *one.metric : *one.metric - *other.metric;
    better += gain > 0 || (gain == 0 && other.step < one.step) ? 1 : 0;
  }
  return policy.keep == 0 || newer < policy.keep || newer == 0 || one.in_use ||
         (policy.keep_every_steps > 0 && one.step % policy.keep_every_steps == 0) ||
         (is_measured(one) && better < policy.keep_best);
}

struct Case {
  std::vector<SavedStep> saved;
  CheckpointConfig policy;
};

Case made_up_case(std::mt19937& random) {
  const auto below = [&](int bound) { return std::uniform_int_distribution<int>(0, bound - 1)(random); };
  Case out{{}, policy_of(below(4), 10 * below(5), below(4))};
  if (below(2) == 1) out.policy.keep_best_mode = BestMode::max;
  Steps steps;
  for (int64_t step = 10; step <= 150; step += 10)
    if (below(3) > 0) steps.push_back(step);
  std::shuffle(steps.begin(), steps.end(), random);
  for (const int64_t step : steps) {
    SavedStep one{.step = step, .in_use = below(6) == 0};
    if (below(3) > 0) one.metric = below(8) == 0 ? kNan : 0.5 * below(5);  // few values, so that there are equal ones
    out.saved.push_back(one);
  }
  return out;
}

}  // namespace

TEST_CASE("the newest checkpoints stay, and multiples of a number of steps for ever") {
  struct Row {
    Steps saved;
    int64_t keep, keep_every_steps;
    Steps removed;
  };
  const std::vector<Row> rows{
      {{}, 3, 0, {}},
      {{7}, 1, 0, {}},
      {{1, 2, 3, 4, 5}, 3, 0, {1, 2}},
      {{4, 1, 5, 3, 2}, 3, 0, {1, 2}},  // in any order
      {{1, 2, 3}, 3, 0, {}},
      {{1, 2, 3, 4, 5}, 0, 0, {}},  // 0: all
      {{1, 2, 3, 4, 5}, 1, 2, {1, 3}},
      {{100, 200, 300, 400, 500}, 1, 200, {100, 300}},
      {{100, 200, 300}, 1, 1000, {100, 200}},
  };
  for (const auto& row : rows)
    CHECK(steps_to_remove(steps_of(row.saved), policy_of(row.keep, row.keep_every_steps)) == row.removed);
}

TEST_CASE("the best checkpoints stay, the older of equal ones, and steps without a metric do not compete") {
  const std::vector<SavedStep> saved{{1, 3.0}, {2, 2.0}, {3, 2.0}, {4, kNan}, {5, {}}, {6, 2.5}, {7, {}}};
  auto policy = policy_of(1, 0, 1);
  CHECK(steps_to_remove(saved, policy) == Steps{1, 3, 4, 5, 6});
  policy.keep_best = 2;
  CHECK(steps_to_remove(saved, policy) == Steps{1, 4, 5, 6});
  policy.keep_best_mode = BestMode::max;
  CHECK(steps_to_remove(saved, policy) == Steps{2, 3, 4, 5});
  policy.keep_best = 9;
  CHECK(steps_to_remove(saved, policy) == Steps{4, 5});
}

TEST_CASE("a checkpoint that is in use stays, and so does the newest") {
  auto saved = steps_of({1, 2, 3, 4});
  saved[0].in_use = true;
  CHECK(steps_to_remove(saved, policy_of(1)) == Steps{2, 3});
  CHECK(steps_to_remove(steps_of({1, 2}), policy_of(1)) == Steps{1});
  CHECK_THROWS_AS(steps_to_remove(steps_of({1, 2, 1}), policy_of(1)), Error);
}

TEST_CASE("made-up checkpoints and policies remove what the rule removes") {
  std::mt19937 random(1);
  int64_t removed_in_all = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto [saved, policy] = made_up_case(random);
    Steps expected;
    for (const auto& one : saved)
      if (!stays(one, saved, policy)) expected.push_back(one.step);
    std::sort(expected.begin(), expected.end());
    const auto removed = steps_to_remove(saved, policy);
    REQUIRE(removed == expected);
    removed_in_all += std::ssize(removed);
  }
  CHECK(removed_in_all > 1000);
}

// When a checkpoint is due.
#include "trainer/config/save_cadence.h"

#include <random>

#include "support/catch.h"

namespace {

using namespace olmoe;
using Steps = std::vector<int64_t>;

CheckpointConfig cadence(int64_t every_steps, std::vector<SaveInterval> intervals = {}) {
  CheckpointConfig config;
  config.every_steps = every_steps;
  config.cadence = std::move(intervals);
  return config;
}

Steps due_steps(const CheckpointConfig& config, int64_t first, int64_t last, int64_t multiple = 1) {
  Steps steps;
  for (int64_t step = first + 1; step <= last; ++step)
    if (save_due(config, step) && step % multiple == 0) steps.push_back(step);
  return steps;
}

}  // namespace

TEST_CASE("checkpoints are due in the interval that a step lies in") {
  CHECK(due_steps(cadence(0), 0, 20).empty());
  CHECK(due_steps(cadence(7), 0, 20) == Steps{7, 14});
  CHECK(due_steps(cadence(10, {{6, 2}}), 0, 30) == Steps{2, 4, 6, 10, 20, 30});
  CHECK(due_steps(cadence(0, {{6, 2}}), 0, 30) == Steps{2, 4, 6});
  CHECK(due_steps(cadence(10, {{6, 0}, {16, 4}}), 0, 30) == Steps{8, 12, 16, 20, 30});
  // The next multiple, not so many steps after the one before.
  CHECK(due_steps(cadence(10, {{7, 3}}), 0, 20) == Steps{3, 6, 10, 20});
}

TEST_CASE("checkpoints that will be due are counted without walking the steps") {
  std::mt19937 random(1);
  const auto up_to = [&](int most) { return std::uniform_int_distribution<int>(0, most)(random); };
  int64_t counted = 0;
  for (int i = 0; i < 1000; ++i) {
    auto config = cadence(up_to(6));
    int64_t until = 0;
    for (int pieces = up_to(3); pieces > 0; --pieces) config.cadence.push_back({until += 1 + up_to(20), up_to(6)});
    const int64_t first = up_to(50), last = up_to(100), multiple = 1 + up_to(5);
    const auto steps = due_steps(config, first, last, multiple);
    REQUIRE(count_saves(config, first, last, multiple) == std::ssize(steps));
    counted += std::ssize(steps);
  }
  CHECK(counted > 1000);
  CHECK(count_saves(cadence(1, {{999'999'998, 2147483647}}), 0, 999'999'999) == 1);
}

// Health of routers from the assignments of steps, and when a warning is given.
#include "trainer/health/router_health.h"

#include <cmath>

#include "core/error.h"
#include "support/catch.h"

namespace {

using namespace olmoe;
using Catch::Contains;

std::vector<double> even(size_t experts, double each) { return std::vector<double>(experts, each); }

}  // namespace

TEST_CASE("load is the largest of all layers: busiest expert over mean, deviation over mean") {
  RouterWatch watch(2, 4, 10);
  const auto health = watch.after_step(std::vector<double>{2, 2, 2, 2, 1, 3, 0, 4}, 1.2);
  CHECK(health.max_load == 2);
  CHECK(health.load_variation == Approx(std::sqrt(10. / 4) / 2).epsilon(1e-14));
  CHECK(health.dead_experts == 0);
  CHECK(health.warnings.empty());
}

TEST_CASE("a model without experts has no health to report") {
  RouterWatch watch(0, 64, 1);
  const auto health = watch.after_step({}, 0);
  CHECK(health.max_load == 0);
  CHECK(health.warnings.empty());
  CHECK(watch.idle().empty());
}

TEST_CASE("a loss of 14/15 at a load of 2 to 4 is warned of, and not again at once") {
  RouterWatch watch(1, 2, 10);
  const auto health = watch.after_step(std::vector<double>{2, 4}, 14. / 15);
  CHECK(health.max_load == Approx(4. / 3).epsilon(1e-14));
  CHECK(health.load_variation == Approx(1. / 3).epsilon(1e-14));
  REQUIRE(health.warnings.size() == 1);
  CHECK_THAT(health.warnings[0], Contains("loss is 0.9333, below 1") && Contains("1.33 times the mean"));
  for (int64_t step = 1; step < RouterWatch::kQuietSteps; ++step)
    CHECK(watch.after_step(std::vector<double>{2, 4}, 14. / 15).warnings.empty());
  CHECK(watch.after_step(std::vector<double>{2, 4}, 14. / 15).warnings.size() == 1);
  CHECK(watch.after_step(std::vector<double>{3, 3}, 1.0).warnings.empty());
}

TEST_CASE("48 dead experts of 64 at a loss of 4/49 are counted after their steps, and warned of by name") {
  RouterWatch watch(1, 64, 3);
  std::vector<double> counts(64, 0);
  std::fill_n(counts.begin(), 16, 1.0);
  auto health = watch.after_step(counts, 4. / 49);
  CHECK(health.dead_experts == 0);
  CHECK(health.max_load == 4);
  REQUIRE(health.warnings.size() == 1);
  CHECK_THAT(health.warnings[0], Contains("loss is 0.0816, below 1"));
  watch.after_step(counts, 4. / 49);
  health = watch.after_step(counts, 4. / 49);
  CHECK(health.dead_experts == 48);
  REQUIRE(health.warnings.size() == 1);
  CHECK_THAT(
      health.warnings[0],
      Contains("48 experts had no token for 3 steps or more: 16 of layer 0, 17 of layer 0") && Contains(", ..."));
  counts[16] = 1;
  CHECK(watch.after_step(counts, 1).dead_experts == 47);
  counts[0] = 0;  // more are dead than before: said at once
  for (int step = 0; step < 2; ++step) CHECK(watch.after_step(counts, 1).warnings.empty());
  CHECK(watch.after_step(counts, 1).warnings.size() == 1);
}

TEST_CASE("a loss that falls while loads drift apart is warned of once both spans show it") {
  const auto warnings_of = [](double last_loss, double last_load) {
    RouterWatch watch(1, 2, 1000);
    std::vector<std::string> all;
    for (size_t step = 0; step < 2 * RouterWatch::kSpan; ++step) {
      const bool late = step >= RouterWatch::kSpan;
      const double load = late ? last_load : 10;
      const auto health = watch.after_step(std::vector<double>{load, 20 - load}, late ? last_loss : 1.5);
      all.insert(all.end(), health.warnings.begin(), health.warnings.end());
      if (step + 1 < 2 * RouterWatch::kSpan) CHECK(all.empty());
    }
    return all;
  };
  const auto apart = warnings_of(1.2, 14);
  REQUIRE(apart.size() == 1);
  CHECK_THAT(apart[0], Contains("fell from 1.5000 to 1.2000") && Contains("rose from 0.000 to 0.400"));
  CHECK(warnings_of(1.6, 14).empty());
  CHECK(warnings_of(1.2, 10).empty());
}

TEST_CASE("idle steps go to a checkpoint and come back") {
  RouterWatch watch(2, 2, 3);
  for (int step = 0; step < 2; ++step) watch.after_step(std::vector<double>{1, 0, 0, 1}, 1);
  const auto idle = watch.idle();
  CHECK(idle == std::map<std::string, int64_t>{{"0.1", 2}, {"1.0", 2}});
  RouterWatch again(2, 2, 3);
  again.set_idle(idle);
  CHECK(again.idle() == idle);
  CHECK(again.after_step(std::vector<double>{1, 0, 1, 1}, 1).dead_experts == 1);
  for (const std::string bad : {"2.0", "0.2", "0", "x.1", "-1.0"})
    CHECK_THROWS_WITH(again.set_idle({{bad, 1}}), Contains("expert " + bad));
  CHECK_THROWS_AS(again.after_step(even(3, 1), 1), Error);
}

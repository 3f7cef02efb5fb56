#include "trainer/config/lr_schedule.h"

#include "support/catch.h"

namespace {

using namespace olmoe;

void check_close(double ours, double expected, double relative = 1e-5) {
  CHECK(ours == Approx(expected).epsilon(relative).margin(0));
}

}  // namespace

TEST_CASE("the schedule of OLMoE-1B-7B") {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", {});
  auto lr = [&](int64_t step) { return learning_rate(config.schedule, config.optimizer.lr, config.train.steps, step); };
  check_close(lr(1), 4.0144e-5);
  check_close(lr(1250), 2.2e-4);
  check_close(lr(2500), 4e-4);
  check_close(lr(10'000), 3.99965e-4);
  check_close(lr(100'000), 3.94066e-4);
  check_close(lr(500'000), 2.65744e-4);
  check_close(lr(1'000'000), 6.26691e-5);
  check_close(lr(1'192'093), 4e-5, 1e-12);
  check_close(lr(1'220'000), 4e-5, 1e-12);
}

TEST_CASE("linear and constant after the warm-up, by hand") {
  ScheduleConfig schedule{
      .kind = ScheduleKind::linear, .warmup_steps = 10, .decay_steps = 30, .warmup_start = 0, .final_fraction = 0.5};
  auto lr = [&](int64_t step) { return learning_rate(schedule, 2.0, /*train_steps=*/1000, step); };
  check_close(lr(1), 0.2);
  check_close(lr(10), 2.0);
  check_close(lr(20), 1.5);
  check_close(lr(30), 1.0);
  check_close(lr(999), 1.0);
  schedule.kind = ScheduleKind::constant;
  check_close(lr(5), 1.0);
  check_close(lr(999), 2.0);
}

TEST_CASE("decay_steps 0 ends at train.steps") {
  const ScheduleConfig schedule{.warmup_steps = 0};
  check_close(learning_rate(schedule, 1.0, 100, 100), 0.1);
  check_close(learning_rate(schedule, 1.0, 100, 50), 0.55);
}

TEST_CASE("a run that is shorter than its warm-up only warms up") {
  const ScheduleConfig schedule{.warmup_steps = 100};
  check_close(learning_rate(schedule, 1.0, 10, 1), 0.109);
  check_close(learning_rate(schedule, 1.0, 10, 10), 0.19);
  const ScheduleConfig as_long{.warmup_steps = 10};
  check_close(learning_rate(as_long, 1.0, 10, 9), 0.91);
  CHECK(std::isfinite(learning_rate(as_long, 1.0, 10, 10)));
}

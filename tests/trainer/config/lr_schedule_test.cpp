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

TEST_CASE("wsd holds the peak and cools down linearly or by 1-sqrt, by hand") {
  ScheduleConfig schedule{.kind = ScheduleKind::wsd,
                          .warmup_steps = 10,
                          .decay_steps = 100,
                          .warmup_start = 0,
                          .final_fraction = 0.25,
                          .cooldown_steps = 40};
  const auto lr = [&](int64_t step) { return learning_rate(schedule, 2.0, /*train_steps=*/1000, step); };
  const auto check_outside = [&] {
    check_close(lr(1), 0.2, 1e-15);
    check_close(lr(5), 1.0, 1e-15);
    for (const int64_t step : {10, 11, 35, 59, 60}) CHECK(lr(step) == 2.0);
    for (const int64_t step : {100, 101, 1000}) CHECK(lr(step) == 0.5);
  };
  check_outside();
  check_close(lr(61), 2.0 - 1.5 / 40, 1e-15);
  check_close(lr(70), 1.625, 1e-15);
  check_close(lr(80), 1.25, 1e-15);
  check_close(lr(99), 0.5 + 1.5 / 40, 1e-15);
  schedule.cooldown_shape = CooldownShape::one_minus_sqrt;
  check_outside();
  check_close(lr(70), 1.25, 1e-15);  // 1/4 over, sqrt 1/2: 0.5 + 1.5 / 2
  check_close(lr(80), 0.5 + 1.5 * (1 - 0.70710678118654752), 1e-15);
  check_close(lr(82), 0.88757022693565, 1e-12);
  check_close(lr(99), 0.5 + 1.5 * (1 - 0.98742088290657), 1e-12);
}

TEST_CASE("wsd without decay_steps cools down to the last step, right after the warm-up if it is as long") {
  const ScheduleConfig schedule{
      .kind = ScheduleKind::wsd, .warmup_steps = 20, .final_fraction = 0, .cooldown_steps = 80};
  const ScheduleConfig linear{.kind = ScheduleKind::linear, .warmup_steps = 20, .final_fraction = 0};
  for (int64_t step = 1; step <= 110; ++step)
    CHECK(learning_rate(schedule, 3.0, 100, step) == learning_rate(linear, 3.0, 100, step));
  CHECK(learning_rate(schedule, 3.0, 100, 100) == 0);
}

TEST_CASE("the inverse square root is that of the Transformer, down to the floor") {
  constexpr int64_t kWarmup = 400;
  constexpr double kWidth = 512;
  ScheduleConfig schedule{
      .kind = ScheduleKind::inverse_sqrt, .warmup_steps = kWarmup, .warmup_start = 0, .final_fraction = 0};
  const double peak = std::pow(kWidth * kWarmup, -0.5);
  for (const int64_t step : {1, 2, 200, 399, 400, 401, 1600, 100'000}) {
    const auto s = static_cast<double>(step);
    // Source: Vaswani et al., arXiv 1706.03762, equation 3.
    check_close(learning_rate(schedule, peak, 1000, step),
                std::pow(kWidth, -0.5) * std::min(std::pow(s, -0.5), s * std::pow(kWarmup, -1.5)), 1e-14);
  }
  schedule.final_fraction = 0.25;  // reached at 16 times the warm-up, whatever train.steps and decay_steps
  schedule.decay_steps = 500;
  check_close(learning_rate(schedule, 1.0, 1000, 1600), 0.5, 1e-15);
  check_close(learning_rate(schedule, 1.0, 1000, 6399), std::sqrt(400.0 / 6399), 1e-15);
  for (const int64_t step : {6400, 6401, 1'000'000}) CHECK(learning_rate(schedule, 1.0, 1000, step) == 0.25);
  schedule.warmup_steps = 0;  // taken as 1
  CHECK(learning_rate(schedule, 1.0, 1000, 1) == 1.0);
  check_close(learning_rate(schedule, 1.0, 1000, 4), 0.5, 1e-15);
}

TEST_CASE("after the warm-up no schedule rises, and none leaves the range from floor to peak") {
  for (const auto kind : {ScheduleKind::cosine, ScheduleKind::linear, ScheduleKind::constant, ScheduleKind::wsd,
                          ScheduleKind::inverse_sqrt})
    for (const auto shape : {CooldownShape::linear, CooldownShape::one_minus_sqrt}) {
      const ScheduleConfig schedule{.kind = kind,
                                    .warmup_steps = 7,
                                    .decay_steps = 150,
                                    .final_fraction = 0.3,
                                    .cooldown_steps = 31,
                                    .cooldown_shape = shape};
      INFO(enum_name(kind) << " " << enum_name(shape));
      double before = 0;
      for (int64_t step = 1; step <= 200; ++step) {
        const double now = learning_rate(schedule, 2.0, 200, step);
        if (step <= 7) CHECK(now > before);
        if (step > 7) CHECK(now <= before);
        CHECK(now <= 2.0);
        if (step >= 7) CHECK(now >= 0.6);
        before = now;
      }
      check_close(before, kind == ScheduleKind::constant ? 2.0 : 0.6, 1e-15);
    }
}

TEST_CASE("a cooldown that is missing, or longer than what the warm-up leaves, is refused by key") {
  ScheduleConfig schedule{.kind = ScheduleKind::wsd, .warmup_steps = 10};
  CHECK(validate(schedule, 100) ==
        std::vector<std::string>{"schedule.cooldown_steps: must be at least 1 with schedule.kind: wsd: the steps from "
                                 "the peak to the floor"});
  schedule.cooldown_steps = 90;
  CHECK(validate(schedule, 100).empty());
  schedule.cooldown_steps = 91;
  CHECK(validate(schedule, 100) ==
        std::vector<std::string>{"schedule.cooldown_steps: 91 is longer than the 90 steps between the warm-up "
                                 "(schedule.warmup_steps: 10) and the end of the decay (train.steps: 100)"});
  schedule.decay_steps = 5;
  CHECK(validate(schedule, 100) ==
        std::vector<std::string>{"schedule.cooldown_steps: 91 is longer than the 0 steps between the warm-up "
                                 "(schedule.warmup_steps: 10) and the end of the decay (schedule.decay_steps: 5)"});
  for (const auto kind :
       {ScheduleKind::cosine, ScheduleKind::linear, ScheduleKind::constant, ScheduleKind::inverse_sqrt}) {
    schedule.kind = kind;  // has no cooldown
    CHECK(validate(schedule, 100).empty());
  }
}

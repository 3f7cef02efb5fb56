#include "trainer/config/lr_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace olmoe {
namespace {

/// A way from 0 at step `begin` to 1 at step `end`, and beyond.
double progress(int64_t step, int64_t begin, int64_t end) {
  if (end <= begin) return 1;
  return std::clamp(static_cast<double>(step - begin) / static_cast<double>(end - begin), 0.0, 1.0);
}

int64_t planned_end(const ScheduleConfig& schedule, int64_t train_steps) {
  return schedule.decay_steps > 0 ? schedule.decay_steps : train_steps;
}

}  // namespace

double learning_rate(const ScheduleConfig& schedule, double peak, int64_t train_steps, int64_t step) {
  const int64_t warmup = schedule.warmup_steps, decay = planned_end(schedule, train_steps);
  if (step < warmup) {
    const double start = schedule.warmup_start * peak;
    return start + (peak - start) * static_cast<double>(step) / static_cast<double>(warmup);
  }
  const double floor = schedule.final_fraction * peak;
  const double t = progress(step, warmup, decay);
  switch (schedule.kind) {
    case ScheduleKind::constant:
      return peak;
    case ScheduleKind::linear:
      return peak - (peak - floor) * t;
    case ScheduleKind::cosine:
      return floor + (peak - floor) * (1.0 + std::cos(std::numbers::pi * t)) / 2.0;
    case ScheduleKind::wsd: {
      const double cooled = progress(step, decay - schedule.cooldown_steps, decay);
      if (schedule.cooldown_shape == CooldownShape::linear) return peak - (peak - floor) * cooled;
      return floor + (peak - floor) * (1.0 - std::sqrt(cooled));
    }
    case ScheduleKind::inverse_sqrt:
      return std::max(floor, peak * std::sqrt(static_cast<double>(std::max<int64_t>(1, warmup)) /
                                              static_cast<double>(std::max<int64_t>(1, step))));
  }
  throw Error("unreachable kind of schedule");
}

double learning_rate(const Config& config, int64_t step) {
  const auto& train = config.train;
  const double rate = learning_rate(config.schedule, config.optimizer.lr, train.steps, step);
  const int64_t batch = train.batch_sizes().of_step(step);
  if (batch == train.global_batch_size) return rate;
  return rate * std::pow(static_cast<double>(batch) / static_cast<double>(train.global_batch_size),
                         config.schedule.batch_lr_power);
}

std::optional<int64_t> decay_end(const ScheduleConfig& schedule, int64_t train_steps) {
  if (schedule.kind == ScheduleKind::constant || schedule.kind == ScheduleKind::inverse_sqrt) return {};
  return planned_end(schedule, train_steps);
}

std::vector<std::string> validate(const ScheduleConfig& schedule, int64_t train_steps) {
  if (schedule.kind != ScheduleKind::wsd) return {};
  const int64_t end = planned_end(schedule, train_steps), left = end - schedule.warmup_steps;
  if (schedule.cooldown_steps == 0)
    return {
        "schedule.cooldown_steps: must be at least 1 with schedule.kind: wsd: the steps from the peak to the floor"};
  if (schedule.cooldown_steps <= left) return {};
  return {fmt::format(
      "schedule.cooldown_steps: {} is longer than the {} steps between the warm-up (schedule.warmup_steps: {}) and the "
      "end of the decay ({}: {})",
      schedule.cooldown_steps, std::max<int64_t>(0, left), schedule.warmup_steps,
      schedule.decay_steps > 0 ? "schedule.decay_steps" : "train.steps", end)};
}

}  // namespace olmoe

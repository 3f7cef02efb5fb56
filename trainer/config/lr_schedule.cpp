#include "trainer/config/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace olmoe {

double learning_rate(const ScheduleConfig& schedule, double peak, int64_t train_steps, int64_t step) {
  const auto warmup = static_cast<double>(schedule.warmup_steps);
  const auto decay = static_cast<double>(schedule.decay_steps > 0 ? schedule.decay_steps : train_steps);
  const auto now = static_cast<double>(step);
  if (now < warmup) {
    const double start = schedule.warmup_start * peak;
    return start + (peak - start) * now / warmup;
  }
  if (schedule.kind == ScheduleKind::constant) return peak;
  const double floor = schedule.final_fraction * peak;
  const double progress = decay > warmup ? std::min(1.0, (now - warmup) / (decay - warmup)) : 1.0;
  if (schedule.kind == ScheduleKind::linear) return peak - (peak - floor) * progress;
  return floor + (peak - floor) * (1.0 + std::cos(std::numbers::pi * progress)) / 2.0;
}

}  // namespace olmoe

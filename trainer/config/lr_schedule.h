#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

// Sources: OLMo's cosine_with_warmup, with a warm-up from 10 % of the peak, and the floor after the decay; wsd of
// MiniCPM (arXiv 2404.06395), with the cooldowns of Haegele et al. (arXiv 2405.18392); inverse_sqrt of Vaswani et al.
// (arXiv 1706.03762).

// clang-format off
/// Learning rate of optimizer step `step` (1 for the first) with `peak` = lr, by schedule.kind:
///   warm-up       lr_w + (lr - lr_w) * step / warmup       with lr_w = warmup_start * lr
///   cosine        floor + (lr - floor) * (1 + cos(pi * t)) / 2   t = (step - warmup) / (decay - warmup), at most 1
///   linear        lr - (lr - floor) * t;   constant   lr
///   wsd           lr; with c = (step - decay + cooldown) / cooldown from 0 to 1, lr - (lr - floor) * c, or
///                 floor + (lr - floor) * (1 - sqrt(c))
///   inverse_sqrt  lr * sqrt(max(1, warmup) / step), at least the floor
// clang-format on
double learning_rate(const ScheduleConfig& schedule, double peak, int64_t train_steps, int64_t step);
/// The rate of a step of a run: in train.batch_size_warmup times (its sequences / train.global_batch_size) to the power
/// of schedule.batch_lr_power. It depends on nothing but the config and the step.
double learning_rate(const Config& config, int64_t step);
/// The step from which the rate is the floor; none of a schedule that has no such step.
std::optional<int64_t> decay_end(const ScheduleConfig& schedule, int64_t train_steps);
/// Problems that span fields of a schedule whose numbers are in range, by key.
std::vector<std::string> validate(const ScheduleConfig& schedule, int64_t train_steps);

}  // namespace olmoe

#pragma once
#include <cstdint>

#include "trainer/config/config.h"

namespace olmoe {

/// Learning rate of optimizer step `step` (1 for the first):
///   warm-up   lr_w + (lr - lr_w) * step / warmup_steps       with lr_w = warmup_start * lr
///   cosine    floor + (lr - floor) * (1 + cos(pi * t)) / 2   with t = (step - warmup) / (decay - warmup), at most 1
///   linear    lr - (lr - floor) * t;   constant   lr
/// Source: OLMo's cosine_with_warmup, with a warm-up from 10 % of the peak, and the floor after the decay.
double learning_rate(const ScheduleConfig& schedule, double peak, int64_t train_steps, int64_t step);

}  // namespace olmoe

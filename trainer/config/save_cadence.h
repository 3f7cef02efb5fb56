#pragma once
#include <cstdint>

#include "trainer/config/checkpoint_config.h"

namespace olmoe {

/// Whether a checkpoint is due after `step`, by the interval of checkpoint.cadence that it lies in, else by
/// checkpoint.every_steps. The last step and one that a signal stops are other reasons to save.
bool save_due(const CheckpointConfig& config, int64_t step);

/// Whether saves become due that run beside training.
bool saves_async(const CheckpointConfig& config);

/// The steps after `first` and up to `last` for which save_due() holds and which are multiples of `multiple`.
int64_t count_saves(const CheckpointConfig& config, int64_t first, int64_t last, int64_t multiple = 1);

}  // namespace olmoe

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// Likely mistakes in a run's learning rate, one sentence each: a warm-up that takes most of the run or is longer than
/// it, a decay that ends before the warm-up or after the run, smaller batches or another clipping norm in all of it,
/// keys of Muon, of a cooldown or of the rates of smaller batches where there are none.
std::vector<std::string> schedule_notices(const Config& config);

/// A jump of the rate where a run resumes after `step` with another schedule than it was saved with: one sentence with
/// both rates and what changed, or none. `before` is the config of the checkpoint.
std::vector<std::string> changed_schedule_notices(const Config& before, const Config& config, int64_t step);

}  // namespace olmoe

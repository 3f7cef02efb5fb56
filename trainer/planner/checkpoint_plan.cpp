#include "trainer/planner/checkpoint_plan.h"

#include <algorithm>

#include "model/flops.h"
#include "trainer/config/parameter_groups.h"
#include "trainer/config/save_cadence.h"

namespace olmoe {
namespace {

int64_t count_all_saves(const Config& config, int64_t step) {
  const auto& checkpoint = config.checkpoint;
  const int64_t steps = config.train.steps;
  if (step >= steps) return 0;
  return count_saves(checkpoint, step, steps) + (checkpoint.save_last && !save_due(checkpoint, steps) ? 1 : 0);
}

/// Checkpoints that stay although newer ones are there, at most.
int64_t count_kept_longer(const Config& config, int64_t step) {
  const auto& checkpoint = config.checkpoint;
  const int64_t every = checkpoint.keep_every_steps;
  return checkpoint.keep_best + (every > 0 ? count_saves(checkpoint, step, config.train.steps, every) : 0);
}

int64_t count_kept_weights(const Config& config, int64_t step) {
  const auto& checkpoint = config.checkpoint;
  const int64_t every = checkpoint.keep_weights_every_steps;
  return checkpoint.keep > 0 && every > 0 ? count_saves(checkpoint, step, config.train.steps, every) : 0;
}

/// Bytes of so many checkpoints, and of all weights that stay alone.
int64_t bytes_of(int64_t checkpoints, const PlannedSaves& saves) {
  constexpr double kMost = 9e18;  // that an int64_t counts
  const auto times = [](int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
  return static_cast<int64_t>(
      std::min(kMost, times(saves.each_bytes, checkpoints) + times(saves.weights_bytes, saves.weights)));
}

}  // namespace

int64_t PlannedSaves::all_bytes() const { return bytes_of(most, *this); }

int64_t PlannedSaves::needed_bytes() const { return bytes_of(most - present, *this); }

PlannedSaves plan_saves(const Config& config, int64_t step, int64_t present) {
  const int64_t element = std::max<int64_t>(4, element_bytes(config.train.compute_dtype));
  const int64_t saves = count_all_saves(config, step), keep = config.checkpoint.keep;
  int64_t most = present + saves;
  if (saves > 0 && keep > 0) most = std::min(most, std::max(keep, present) + count_kept_longer(config, step) + 1);
  const int64_t all = count_parameters(config.model).total;
  return {element * (all + count_moments(config.optimizer, config.model)),
          element * all,
          saves,
          present,
          most,
          count_kept_weights(config, step)};
}

}  // namespace olmoe

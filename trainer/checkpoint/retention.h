#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "trainer/config/checkpoint_config.h"

namespace olmoe {

/// A valid checkpoint, as far as it matters for whether it stays.
struct SavedStep {
  int64_t step = 0;
  std::optional<double> metric = {};  ///< its checkpoint.keep_best_metric, where the step was evaluated
  bool in_use = false;                ///< being read, or sent elsewhere
};

/// The steps of `saved`, in any order, that `policy` does not keep, oldest first. None where checkpoint.keep is 0. The
/// newest and those in use stay under any policy. Of equal metrics the older step is the better one; a step without a
/// metric, or with one that is not finite, is not among the best. Throws Error for a step that comes twice.
std::vector<int64_t> steps_to_remove(std::span<const SavedStep> saved, const CheckpointConfig& policy);

}  // namespace olmoe

#pragma once
#include <cstdint>

#include "trainer/config/config.h"

namespace olmoe {

/// Checkpoints that a run will save, and what they take on disk at most.
struct PlannedSaves {
  int64_t each_bytes;     ///< of a checkpoint: weights, and moments of what is trained, without headers of some
                          ///< hundred bytes a tensor
  int64_t weights_bytes;  ///< of the weights alone
  int64_t saves;          ///< planned ones, without that of a signal
  int64_t present;        ///< complete checkpoints in the folder
  int64_t most;           ///< at one time: those that stay, and the one being written
  int64_t weights;        ///< of weights alone (keep_weights_every_steps) from now on, at most

  /// Bytes of `most` and `weights`.
  int64_t all_bytes() const;
  /// The same without the present checkpoints.
  int64_t needed_bytes() const;
};
/// For a run that resumes after `step` with `present` checkpoints in its folder.
PlannedSaves plan_saves(const Config& config, int64_t step, int64_t present);

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <string_view>

#include "parallel/sharded_unit.h"

namespace olmoe {

/// State as a checkpoint saves it: one kind of trained state of one unit, this rank's shard, or a stage's buffer. Flat
/// [elements], fp32 or float64.
struct StateTensor {
  std::string kind;               ///< "weight", "exp_avg", "exp_avg_sq", "momentum" or "buffer"
  std::span<const Slice> slices;  ///< what `flat` holds; they outlive this
  at::Tensor flat;
  bool on_all_ranks = false;  ///< a buffer, equal on all ranks: the first rank of `shard` saves it, every rank loads it
  std::span<const UnitParam> params = {};  ///< of the unit, on all ranks together; none of a buffer. They outlive this
};

/// Whether only a loss of training reads a buffer (model.load_balancing_granularity: previous_step), so that a model
/// without that loss has no use for it.
inline bool is_of_losses(std::string_view buffer) { return buffer.ends_with(".previous_counts"); }

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "parallel/sharded_unit.h"

namespace olmoe {

/// One kind of trained state of one unit, flat, cut like the unit's shard: what a checkpoint saves.
struct StateTensor {
  std::string kind;  ///< "weight", "exp_avg" or "exp_avg_sq"
  const ShardedUnit* unit;
  at::Tensor flat;
};

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "parallel/sharded_unit.h"

namespace olmoe {

/// One kind of trained state of one unit, as a checkpoint saves it: this rank's shard, flat [elements of the shard],
/// fp32 or float64.
struct StateTensor {
  std::string kind;  ///< "weight", "exp_avg" or "exp_avg_sq"
  const ShardedUnit* unit;
  at::Tensor flat;
};

}  // namespace olmoe

#pragma once
#include <memory>
#include <span>

#include "model/init.h"
#include "parallel/sharded_unit.h"

namespace olmoe {

/// Writes this rank's slices of every unit from a source of values, and marks gathered copies as out of date.
void fill_weights(std::span<const std::unique_ptr<ShardedUnit>> units, const ParamSource& source);

}  // namespace olmoe

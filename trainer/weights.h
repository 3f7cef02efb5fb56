#pragma once
#include <memory>
#include <span>

#include "model/init.h"
#include "parallel/sharded_unit.h"
#include "trainer/config/config.h"

namespace olmoe {

/// Writes this rank's slices of every unit from a source of values, and marks gathered copies as out of date.
void fill_weights(std::span<const std::unique_ptr<ShardedUnit>> units, const ParamSource& source);

/// The weights that a config starts from: train.init_from, else random ones. Throws CheckpointError or ConfigError,
/// which name the key, for a folder that cannot be used.
ParamSource initial_weights(const Config& config);

}  // namespace olmoe

#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/init.h"
#include "parallel/sharded_unit.h"
#include "trainer/checkpoint/state_tensor.h"
#include "trainer/config/config.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// Fills this rank's slices of every unit from `source`, and marks gathered copies as outdated.
void fill_weights(std::span<const std::unique_ptr<ShardedUnit>> units, const ParamSource& source);

/// What a checkpoint has: weights and moments of `optimizer`, and the buffers of the stages of `runner`.
std::vector<StateTensor> saved_state(const Optimizer& optimizer, const StageRunner& runner);

/// Fills those of `buffers` that train.init_from has, a step folder or a Hugging Face folder; others keep their initial
/// values, all where it is empty. Throws CheckpointError.
void fill_buffers(std::span<const StateTensor> buffers, const std::string& folder);

/// Fills all of `state` but the weights, which are moments and buffers, from the step folder train.init_from. Throws
/// CheckpointError, naming train.init_optimizer, where it has none.
void fill_moments(std::span<const StateTensor> state, const std::string& step_folder);

/// The initial weights of a config: those of train.init_from (a Hugging Face folder, or a step folder), else random
/// ones. Throws CheckpointError or ConfigError, naming the key, for a folder that cannot be used. `unknown`: of a step
/// folder's config.
ParamSource initial_weights(const Config& config, UnknownKeys unknown);

}  // namespace olmoe

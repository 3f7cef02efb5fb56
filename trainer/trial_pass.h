#pragma once
#include <ATen/core/Tensor.h>

#include "data/batch.h"
#include "parallel/device_mesh.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// Forward and backward of one micro-batch of each rank, without an update. Returns float64 [2] on the device: the sum
/// of cross-entropies and the gradient norm, of all ranks. Gradients are zero afterwards, and gathered weights
/// outdated. Collective over world.
at::Tensor trial_pass(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, const Batch& batch);

}  // namespace olmoe

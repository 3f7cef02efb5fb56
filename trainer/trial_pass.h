#pragma once
#include <ATen/core/Tensor.h>

#include "data/batch.h"
#include "parallel/device_mesh.h"
#include "trainer/optimizer.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// What the weights make of one micro-batch of each rank, forward and backward: float64 [2] on the device, the sum of
/// cross-entropies and the gradient norm, of all ranks. Nothing is updated; gradients are left zero, and gathered
/// weights out of date. Collective over world.
at::Tensor trial_pass(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, const Batch& batch);

}  // namespace olmoe

#include "trainer/trial_pass.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <limits>

namespace olmoe {

at::Tensor trial_pass(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, const Batch& batch) {
  runner.reset_totals();
  const auto scale = loss_scale(std::max<int64_t>(1, batch.num_targets), /*aux_share=*/1, runner.device());
  runner.train_micro_batch(batch, scale, /*last_of_step=*/true);
  runner.reduce_replicas();
  const auto grad_norm = optimizer.grad_norm(mesh.shard());
  mesh.replicate().broadcast(grad_norm, 0);  // as in a step: one value on all ranks
  auto loss = runner.totals().losses_3.narrow(0, 0, 1).clone();
  mesh.world().all_reduce(loss);
  // With a NaN norm it updates nothing and zeroes the gradients.
  optimizer.update(grad_norm * std::numeric_limits<double>::quiet_NaN());
  return at::cat({loss, grad_norm});
}

}  // namespace olmoe

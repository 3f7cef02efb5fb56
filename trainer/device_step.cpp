#include "trainer/device_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace olmoe {
namespace {

/// Assignments of the busiest expert over the mean of its layer; the largest over layers. 0 without experts.
at::Tensor max_expert_load(const at::Tensor& counts_LE) {
  if (counts_LE.numel() == 0) return at::zeros({}, counts_LE.options());
  return (counts_LE.amax(1) / counts_LE.mean(1)).max();
}

}  // namespace

DeviceStep::DeviceStep(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, Size size,
                       std::unique_ptr<GraphRecorder> recorder)
    : runner_(runner), optimizer_(optimizer), mesh_(mesh), size_(size) {
  if (!recorder) return;
  batches_.emplace(runner.totals().losses_3.device(), size.rounds);
  graph_.emplace(std::move(recorder), [this] { optimizer_.mark_updated(); });
}

at::Tensor DeviceStep::run(const std::function<Batch()>& next, int64_t step, double lr) {
  optimizer_.begin_step(step, lr);
  if (!graph_) return compute([&](int64_t) { return next(); });
  batches_->load(next);
  return graph_->run([this] { return compute([this](int64_t round) { return batches_->of_round(round); }); });
}

at::Tensor DeviceStep::compute(const std::function<Batch(int64_t round)>& batch_of) {
  const double per_target = 1.0 / static_cast<double>(size_.targets);
  runner_.reset_totals();
  for (int64_t round = 0; round < size_.rounds; ++round) {
    const auto batch = batch_of(round);
    const auto share = static_cast<double>(batch.ids_BS.size(0)) / static_cast<double>(size_.sequences);
    runner_.train_pass(batch, {.per_target = per_target, .aux_share = share}, round + 1 == size_.rounds);
  }
  runner_.reduce_replicas();
  const auto grad_norm = optimizer_.grad_norm(mesh_.shard());
  mesh_.replicate().broadcast(grad_norm, 0);  // NCCL may sum in another order there, and all must clip alike
  auto totals = runner_.totals();
  mesh_.world().all_reduce(totals.losses_3);
  mesh_.world().all_reduce(totals.counts_LE);
  mesh_.world().all_reduce(totals.dropped_1);
  // The device decides by itself whether to update; the host asks once a step, and only then learns of it.
  optimizer_.update(grad_norm + 0 * totals.losses_3[0]);
  return at::cat({totals.losses_3, grad_norm, max_expert_load(totals.counts_LE).view(1), totals.dropped_1});
}

}  // namespace olmoe

#include "trainer/device_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/reciprocal.h>

#include <cmath>
#include <utility>
#include <vector>

#include "parallel/collectives/host_tensor.h"

namespace olmoe {
PendingTotals::PendingTotals(const LocalTotals& totals, const at::Tensor& grad_norm, const at::Tensor& counts_2)
    : packed_(at::cat({totals.losses_3, grad_norm.view(1), totals.dropped_1, counts_2.to(at::kDouble), totals.entropy_1,
                       totals.output_z_1, totals.counts_LE.flatten()})) {}

StepTotals PendingTotals::read(Communicator& ranks) const {
  constexpr int64_t kScalars = 9;
  const auto host = fetch(packed_, ranks);
  const double* const numbers = host.const_data_ptr<double>();
  return {.cross_entropy_sum = numbers[0],
          .load_balancing_loss = numbers[1],
          .router_z_loss = numbers[2],
          .grad_norm = numbers[3],
          .dropped_assignments = std::llround(numbers[4]),
          .targets = std::llround(numbers[5]),
          .masked_sequences = std::llround(numbers[6]),
          .router_entropy = numbers[7],
          .output_z_sum = numbers[8],
          .counts_LE = {numbers + kScalars, numbers + host.numel()}};
}

DeviceStep::DeviceStep(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, BatchPlan batches,
                       std::unique_ptr<DeviceGraph> graph, int64_t counts_every)
    : runner_(runner), optimizer_(optimizer), mesh_(mesh), plan_(batches), counts_every_(counts_every) {
  if (!graph) return;
  batches_.emplace(runner.device(), batches.accumulation_steps());
  graph_.emplace(std::move(graph), [this] { optimizer_.mark_updated(); });
}

void DeviceStep::set_batches(BatchPlan batches) {
  ENSURE(!graph_ || batches.global_batch == plan_.global_batch, "a graph of steps of {} sequences, not {}",
         plan_.global_batch, batches.global_batch);
  plan_ = batches;
}

PendingTotals DeviceStep::run(const std::function<Batch()>& next, StepNumber step, double lr,
                              const std::function<void()>& before_update) {
  optimizer_.begin_step(step, lr);
  if (!graph_)
    return PendingTotals(compute(take_batches(next, plan_.accumulation_steps(), runner_.device()), before_update));
  batches_->load(next);
  before_update();  // a replay updates the state in the same launch
  return PendingTotals(graph_->run([this] { return compute(batches_->step(), [] {}); }));
}

std::optional<RankCounts> DeviceStep::counts_by_rank(int64_t step) {
  if (counts_every_ == 0 || step % counts_every_ != 0 || own_counts_LE_.numel() == 0) return {};
  auto& world = mesh_.world();
  const auto own = own_counts_LE_.flatten();
  const auto all = at::empty({world.size() * own.numel()}, own.options());
  world.all_gather(all, own);
  const auto host = fetch(all, world).to(at::kLong);
  const auto* const first = host.const_data_ptr<int64_t>();
  return RankCounts{{first, first + host.numel()}, {world.size(), own_counts_LE_.size(0), own_counts_LE_.size(1)}};
}

at::Tensor DeviceStep::compute(const StepBatches& step, const std::function<void()>& before_update) {
  const auto& counts_2 = step.counts_2;
  mesh_.world().all_reduce(counts_2);
  const auto per_target = counts_2.narrow(0, 0, 1).to(at::kDouble).reciprocal().squeeze(0);
  runner_.reset_totals();
  runner_.begin_step(step.batches, mesh_.world());
  for (size_t i = 0; i < step.batches.size(); ++i) {
    const auto& batch = step.batches[i];
    const auto share = static_cast<double>(batch.ids_BS.size(0)) / static_cast<double>(plan_.global_batch);
    runner_.train_micro_batch(batch, {.per_target = per_target, .aux_share = share}, i + 1 == step.batches.size());
  }
  runner_.reduce_replicas();
  const auto grad_norm = optimizer_.grad_norm(mesh_.shard());
  mesh_.replicate().broadcast(grad_norm, 0);  // NCCL may sum in another order there, and all ranks must clip alike
  auto totals = runner_.take_totals();
  mesh_.world().all_reduce(totals.losses_3);
  if (counts_every_ > 0) own_counts_LE_ = totals.counts_LE.clone();
  mesh_.world().all_reduce(totals.counts_LE);
  const auto others_3 = at::cat({totals.dropped_1, totals.entropy_1, totals.output_z_1});
  mesh_.world().all_reduce(others_3);
  totals.dropped_1 = others_3.narrow(0, 0, 1), totals.entropy_1 = others_3.narrow(0, 1, 1);
  totals.output_z_1 = others_3.narrow(0, 2, 1);
  if (totals.quantiles_LE1.defined()) mesh_.world().all_reduce(totals.quantiles_LE1);
  before_update();
  // A loss that is not finite makes the norm NaN, with which the device updates nothing; the host reads it afterwards.
  const auto norm_or_nan = grad_norm + 0 * totals.losses_3[0];
  optimizer_.update(norm_or_nan);
  runner_.end_step(totals, at::isfinite(norm_or_nan.squeeze(0)));
  return PendingTotals(totals, grad_norm, counts_2).packed();
}

}  // namespace olmoe

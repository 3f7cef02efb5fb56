// Shapes: L layers, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>

#include "data/batch.h"
#include "data/batch_plan.h"
#include "parallel/device_mesh.h"
#include "trainer/optimizer.h"
#include "trainer/stage_runner.h"
#include "trainer/step_batches.h"
#include "trainer/step_graph.h"

namespace olmoe {

/// Numbers of one optimizer step, of all ranks together.
struct StepTotals {
  double cross_entropy_sum;                   ///< nats
  double load_balancing_loss, router_z_loss;  ///< unweighted, means over layers and micro-batches
  double grad_norm;                           ///< before clipping
  double max_expert_load;       ///< assignments of the busiest expert / the mean of its layer, the largest
  int64_t dropped_assignments;  ///< that found no room in their expert
  int64_t targets;              ///< target tokens
  double loss() const { return cross_entropy_sum / static_cast<double>(targets); }
};

/// StepTotals while they are on the device: the host reads them once a step.
class PendingTotals {
 public:
  /// Scalars, or tensors of one element, and the sums of the passes. float64 on one device.
  PendingTotals(const PassTotals& sums, const at::Tensor& grad_norm, const at::Tensor& targets);
  explicit PendingTotals(at::Tensor packed_7) : packed_7_(std::move(packed_7)) {}
  const at::Tensor& packed() const { return packed_7_; }
  /// Waits for the device, polling `ranks`.
  StepTotals read(Communicator& ranks) const;

 private:
  at::Tensor packed_7_;
};

/// All that the device does in an optimizer step: forward, backward, reductions and update, without asking the host.
/// With a recorder, as one CUDA graph.
class DeviceStep {
 public:
  /// What it refers to outlives it. `recorder` is null for a step without a graph.
  DeviceStep(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, BatchPlan batches,
             std::unique_ptr<GraphRecorder> recorder);
  /// Step `step`, the first is 1, on the micro-batches that `next` gives, one for each accumulation step; all are taken
  /// before the first is computed, for the losses are means over the target tokens of the step. Nothing is updated
  /// where loss or gradient norm is not finite: the host learns of it from what is returned. Collective over world.
  PendingTotals run(const std::function<Batch()>& next, int64_t step, double lr);

 private:
  /// The host's values in here must be the same in every step: they may have been recorded.
  at::Tensor compute(const StepBatches& step);

  StageRunner& runner_;
  Optimizer& optimizer_;
  DeviceMesh& mesh_;
  const BatchPlan plan_;
  std::optional<StaticBatches> batches_;  // these two with a graph
  std::optional<StepGraph> graph_;
};

}  // namespace olmoe

// Shapes: L layers, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "data/batch_plan.h"
#include "parallel/device_mesh.h"
#include "trainer/health/router_health.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/stage_runner.h"
#include "trainer/step_batches.h"
#include "trainer/step_graph.h"

namespace olmoe {

/// Numbers of one optimizer step, of all ranks together.
struct StepTotals {
  double cross_entropy_sum;                   ///< nats
  double load_balancing_loss, router_z_loss;  ///< unweighted, means over layers and micro-batches
  double grad_norm;                           ///< before clipping
  int64_t dropped_assignments;                ///< beyond the capacity of their expert
  int64_t targets;                            ///< target tokens, those of masked sequences too
  int64_t masked_sequences;                   ///< whose targets have no loss
  double router_entropy;                      ///< nats, mean over layers and micro-batches
  double output_z_sum;                        ///< of logsumexp^2 over the targets; 0 without model.output_z_weight
  std::vector<double> counts_LE;              ///< assignments of each expert, those of a layer next to each other
  double loss() const { return cross_entropy_sum / static_cast<double>(targets); }
  /// Unweighted mean over the targets, where there is one.
  std::optional<double> output_z_loss() const {
    return output_z_sum > 0 ? std::optional(output_z_sum / static_cast<double>(targets)) : std::nullopt;
  }
};

/// StepTotals on the device, which the host reads once a step.
class PendingTotals {
 public:
  /// `totals` and `counts_2`, as StepBatches has them, summed over all ranks; `grad_norm` has one element. float64, on
  /// one device.
  PendingTotals(const LocalTotals& totals, const at::Tensor& grad_norm, const at::Tensor& counts_2);
  explicit PendingTotals(at::Tensor packed) : packed_(std::move(packed)) {}
  const at::Tensor& packed() const { return packed_; }
  /// Waits for the device, and polls `ranks` meanwhile: throws Error where one of them failed.
  StepTotals read(Communicator& ranks) const;

 private:
  at::Tensor packed_;
};

/// The device's part of an optimizer step: forward, backward, reductions and update, without a host sync. With a graph
/// it is captured and replayed as one CUDA graph.
class DeviceStep {
 public:
  /// `runner`, `optimizer` and `mesh` must outlive this object. `graph` is null for eager steps. `counts_every`: steps
  /// between those that counts_by_rank() has; 0: it has none.
  DeviceStep(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, BatchPlan batches,
             std::unique_ptr<DeviceGraph> graph, int64_t counts_every = 0);
  /// The micro-batches of the steps from now on. Throws Error with a graph, whose steps are all of one size, for
  /// others.
  void set_batches(BatchPlan batches);
  /// Optimizer step `step`. `next` gives the micro-batch of each accumulation step; all are taken
  /// before the first is computed, because losses are means over the target tokens of the whole step. Updates nothing
  /// where the loss or the gradient norm is not finite, which the returned totals show. `before_update` is called once,
  /// after which the trained state may change; with a graph before the step, else before its update. Collective over
  /// world.
  PendingTotals run(
      const std::function<Batch()>& next, StepNumber step, double lr,
      const std::function<void()>& before_update = [] {});
  /// Assignments of the last step, `step`, by rank; nothing where they are not due, or no layer has experts. Waits for
  /// the device. Collective over world.
  std::optional<RankCounts> counts_by_rank(int64_t step);

 private:
  /// Host values in here must be the same in every step: a graph captures them.
  at::Tensor compute(const StepBatches& step, const std::function<void()>& before_update);

  StageRunner& runner_;
  Optimizer& optimizer_;
  DeviceMesh& mesh_;
  BatchPlan plan_;
  int64_t counts_every_;
  at::Tensor own_counts_LE_;              // of this rank in the last step, if counts_every_ > 0
  std::optional<StaticBatches> batches_;  // these two with a graph
  std::optional<StepGraph> graph_;
};

}  // namespace olmoe

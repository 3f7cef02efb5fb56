// Shapes: L layers, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>

#include "data/batch.h"
#include "parallel/device_mesh.h"
#include "trainer/optimizer.h"
#include "trainer/stage_runner.h"
#include "trainer/static_batches.h"
#include "trainer/step_graph.h"

namespace olmoe {

/// All that the device does in an optimizer step: forward, backward, reductions and update, without asking the host.
/// With a recorder, as one CUDA graph.
class DeviceStep {
 public:
  struct Size {
    int64_t rounds;     ///< micro-batches of each rank
    int64_t sequences;  ///< of all ranks together
    int64_t targets;
  };
  /// What it refers to outlives it. `recorder` is null for a step without a graph.
  DeviceStep(StageRunner& runner, Optimizer& optimizer, DeviceMesh& mesh, Size size,
             std::unique_ptr<GraphRecorder> recorder);
  /// Step `step`, the first is 1, on the batches that `next` gives, one a round. Nothing is updated where loss or
  /// gradient norm is not finite: the host learns of it from what is returned, float64 [6] on the device, of all ranks:
  /// cross-entropy sum; load-balancing and z-loss, means over layers; gradient norm; load of the busiest expert, in
  /// means of its layer; assignments that found no room. Collective over world.
  at::Tensor run(const std::function<Batch()>& next, int64_t step, double lr);

 private:
  /// The host's values in here must be the same in every step: they may have been recorded.
  at::Tensor compute(const std::function<Batch(int64_t round)>& batch_of);

  StageRunner& runner_;
  Optimizer& optimizer_;
  DeviceMesh& mesh_;
  const Size size_;
  std::optional<StaticBatches> batches_;  // these two with a graph
  std::optional<StepGraph> graph_;
};

}  // namespace olmoe

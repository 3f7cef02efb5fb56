#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "data/batch.h"

namespace olmoe {

/// The micro-batches of one rank in a step, in order of accumulation steps.
struct StepBatches {
  std::vector<Batch> batches;
  at::Tensor targets_1;  ///< int64 [1] on the device of the run: target tokens of these batches
};

/// Takes `accumulation_steps` batches of `next` and leaves them where they are; their targets are counted on `device`.
StepBatches take_batches(const std::function<Batch()>& next, int64_t accumulation_steps, at::Device device);

/// The micro-batches of a step on a device, in tensors that stay where they are from step to step.
class StaticBatches {
 public:
  StaticBatches(at::Device device, int64_t accumulation_steps)
      : device_(device), accumulation_steps_(accumulation_steps) {}
  /// Takes the batches of the next step and sends them to the device without waiting for it. Throws Error where a batch
  /// has not as many sequences as that of the same accumulation step had in the first step.
  void load(const std::function<Batch()>& next);
  /// On the device, as load() left it. What is added to `targets_1` lasts until the next load().
  const StepBatches& step() const { return step_; }

 private:
  at::Device device_;
  int64_t accumulation_steps_;
  StepBatches step_;
};

}  // namespace olmoe

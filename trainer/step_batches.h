#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "data/batch.h"

namespace olmoe {

/// The micro-batches of one rank in an optimizer step, one for each accumulation step.
struct StepBatches {
  std::vector<Batch> batches;
  at::Tensor counts_2;  ///< int64 [2] on the run's device: target tokens and masked sequences of these batches
};

/// Takes `accumulation_steps` batches from `next`, on the device that they are on; `counts_2` is on `device`.
StepBatches take_batches(const std::function<Batch()>& next, int64_t accumulation_steps, at::Device device);

/// The micro-batches of a step on a device, in tensors whose addresses stay the same from step to step.
class StaticBatches {
 public:
  StaticBatches(at::Device device, int64_t accumulation_steps)
      : device_(device), accumulation_steps_(accumulation_steps) {}
  /// Takes the batches of the next step and copies them to the device asynchronously. Throws Error where a batch has
  /// documents, or another number of sequences than that of the same accumulation step in the first step.
  void load(const std::function<Batch()>& next);
  /// The batches of the last load(). The caller may reduce `counts_2` in place until the next load().
  const StepBatches& step() const { return step_; }

 private:
  at::Device device_;
  int64_t accumulation_steps_;
  StepBatches step_;
};

}  // namespace olmoe

#pragma once
#include <c10/core/Device.h>

#include <functional>
#include <vector>

#include "data/batch.h"

namespace olmoe {

/// The micro-batches of a step on a device, in tensors that stay where they are from step to step.
class StaticBatches {
 public:
  StaticBatches(c10::Device device, int64_t rounds) : device_(device), rounds_(rounds) {}
  /// Takes the batches of the next step, in order of rounds, and sends them to the device without waiting for it.
  /// Throws Error where a round's batch is not of the same size in every step.
  void load(const std::function<Batch()>& next);
  /// On the device, as load() left it.
  const Batch& of_round(int64_t round) const { return batches_.at(static_cast<size_t>(round)); }

 private:
  c10::Device device_;
  int64_t rounds_;
  std::vector<Batch> batches_;
};

}  // namespace olmoe

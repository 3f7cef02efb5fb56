#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

#include "trainer/device/cuda_graph.h"

namespace olmoe {

/// Runs the first steps eagerly, captures one, and replays it from then on. A replay uses the host's values at the time
/// of the capture: what varies from step to step must be in tensors that the work reads.
class StepGraph {
 public:
  /// Eager steps before the capture, in which LibTorch, cuBLAS and NCCL allocate what they keep.
  static constexpr int kWarmUpSteps = 2;

  /// `restore` resets the host's gather state of the weights to that between two steps. Called before the capture and
  /// after each replay, because a replay runs no host code.
  StepGraph(std::unique_ptr<DeviceGraph> graph, std::function<void()> restore);
  /// Runs a step's `work`, which must be the same in every call, and returns its result: from the capture on always the
  /// same tensor, which the next step overwrites. Throws what a capture throws, and Error in every call after that: the
  /// step's state is then partly updated.
  at::Tensor run(const std::function<at::Tensor()>& work);

 private:
  std::unique_ptr<DeviceGraph> graph_;
  std::function<void()> restore_;
  at::Tensor result_;
  int warm_up_steps_ = 0;  // that are done
  bool capture_failed_ = false;
};

}  // namespace olmoe

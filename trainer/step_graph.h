#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

#include "trainer/device/cuda_graph.h"

namespace olmoe {

/// A step's work on the device, from the third step on recorded and replayed. Work that is recorded once is done again
/// with the host's values of that time: what varies from step to step must be in tensors that it reads.
class StepGraph {
 public:
  /// Steps that are done as usual first, in which LibTorch, cuBLAS and NCCL make what they keep.
  static constexpr int kRehearsals = 2;

  /// `restore` puts what the host remembers of the weights to what it is between any two steps: done before the
  /// recording, whatever came before, and after each replay, of which the host's objects know nothing.
  StepGraph(std::unique_ptr<GraphRecorder> recorder, std::function<void()> restore);
  /// Does the step's `work`, which must be the same every time. Returns what it returned: from the recording on the
  /// same tensor, whose contents last until the next step. After a recording that threw it throws Error: part of the
  /// step's state is as it was, part as after the step.
  at::Tensor run(const std::function<at::Tensor()>& work);

 private:
  std::unique_ptr<GraphRecorder> recorder_;
  std::function<void()> restore_;
  at::Tensor result_;
  int rehearsed_ = 0;
  bool record_failed_ = false;
};

}  // namespace olmoe

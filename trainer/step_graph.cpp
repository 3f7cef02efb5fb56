#include "trainer/step_graph.h"

#include <utility>

#include "core/error.h"

namespace olmoe {

StepGraph::StepGraph(std::unique_ptr<DeviceGraph> graph, std::function<void()> restore)
    : graph_(std::move(graph)), restore_(std::move(restore)) {}

at::Tensor StepGraph::run(const std::function<at::Tensor()>& work) {
  ENSURE(!capture_failed_,
         "an earlier capture of the step failed, after which this process cannot train: start the "
         "program again, with train.cuda_graph=false if it fails again");
  if (warm_up_steps_ < kWarmUpSteps) {
    ++warm_up_steps_;
    at::Tensor result;
    graph_->warm_up([&] { result = work(); });
    return result;
  }
  if (!result_.defined()) {
    restore_();
    capture_failed_ = true;
    graph_->capture([this, work] { result_ = work(); });  // by value: a graph in a test calls it in replay()
    capture_failed_ = false;
  }
  graph_->replay();
  restore_();
  return result_;
}

}  // namespace olmoe

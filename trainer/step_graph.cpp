#include "trainer/step_graph.h"

#include <utility>

namespace olmoe {

StepGraph::StepGraph(std::unique_ptr<kernels::Recorder> recorder, std::function<void()> restore)
    : recorder_(std::move(recorder)), restore_(std::move(restore)) {}

at::Tensor StepGraph::run(const std::function<at::Tensor()>& work) {
  if (rehearsed_ < kRehearsals) {
    ++rehearsed_;
    at::Tensor result;
    recorder_->rehearse([&] { result = work(); });
    return result;
  }
  if (!result_.defined()) {
    restore_();
    recorder_->record([&] { result_ = work(); });
  }
  recorder_->replay();
  restore_();
  return result_;
}

}  // namespace olmoe

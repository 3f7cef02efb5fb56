#include "trainer/step_graph.h"

#include <utility>

#include "core/error.h"

namespace olmoe {

StepGraph::StepGraph(std::unique_ptr<GraphRecorder> recorder, std::function<void()> restore)
    : recorder_(std::move(recorder)), restore_(std::move(restore)) {}

at::Tensor StepGraph::run(const std::function<at::Tensor()>& work) {
  ENSURE(!record_failed_,
         "the step could not be recorded before, and this process cannot do it any more: start the "
         "program anew, with train.cuda_graph=false if it fails again");
  if (rehearsed_ < kRehearsals) {
    ++rehearsed_;
    at::Tensor result;
    recorder_->rehearse([&] { result = work(); });
    return result;
  }
  if (!result_.defined()) {
    restore_();
    record_failed_ = true;
    recorder_->record([this, work] { result_ = work(); });  // may be kept: a recorder in a test does the work again
    record_failed_ = false;
  }
  recorder_->replay();
  restore_();
  return result_;
}

}  // namespace olmoe

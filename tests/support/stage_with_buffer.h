// A stage with a buffer, which no stage of a model has to have.
#pragma once
#include <memory>
#include <string>
#include <utility>

#include "model/stage.h"

namespace olmoe::test {

/// A stage that works as the given one, with a buffer of its own, which it does not use.
class StageWithBuffer : public Stage {
 public:
  StageWithBuffer(std::unique_ptr<Stage> stage, std::string name, at::Tensor bias)
      : stage_(std::move(stage)), name_(std::move(name)), bias_(std::move(bias)) {}
  StageState state() override {
    auto out = stage_->state();
    out.buffers.push_back({name_, &bias_});
    return out;
  }
  int64_t num_experts() const override { return stage_->num_experts(); }
  StageCost cost(const CostContext& context) const override { return stage_->cost(context); }
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override { return stage_->forward(x_ND, context); }

 private:
  std::unique_ptr<Stage> stage_;
  std::string name_;
  at::Tensor bias_;
};

}  // namespace olmoe::test

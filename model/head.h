// Shapes: N tokens, D model width, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "model/config.h"
#include "model/stage.h"

namespace olmoe {

/// The last stage: final norm, projection to the vocabulary, cross-entropy, summed over targets or in Phase::score of
/// each target. Logits exist for one chunk of tokens at a time; in Phase::train the forward computes their gradients
/// too.
class Head : public Stage {
 public:
  explicit Head(const ModelConfig& config) : config_(config) {}
  StageState state() override;
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override;
  StageCost cost(const CostContext& context) const override;
  /// All logits [N, V] in the dtype of x, for comparisons; without a graph.
  at::Tensor logits(const at::Tensor& x_ND) const;

 private:
  const ModelConfig& config_;
  at::Tensor norm_D_, w_VD_;
};

}  // namespace olmoe

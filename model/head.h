// Shapes: N tokens, D model width, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

/// The last stage: final norm, projection to the vocabulary, cross-entropy, summed over targets or in Phase::score of
/// each target. Logits exist for one chunk of tokens at a time; in Phase::train the forward computes their gradients
/// too. Where candidates are asked for, their rows alone are projected.
class Head : public Stage {
 public:
  /// `weight`: the slot of the projection's weight [V, D], with model.tie_embeddings that of the embedding.
  Head(const ModelConfig& config, std::shared_ptr<at::Tensor> weight)
      : config_(config), norm_(config, "final_norm"), weight_VD_(std::move(weight)) {}
  StageState state() override;
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override;
  StageCost cost(const CostContext& context) const override;
  /// All logits [N, V] in the dtype of x, for comparisons; without a graph.
  at::Tensor logits(const at::Tensor& x_ND) const;

 private:
  const ModelConfig& config_;
  Norm norm_;
  std::shared_ptr<at::Tensor> weight_VD_;
};

}  // namespace olmoe

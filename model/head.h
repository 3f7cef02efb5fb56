// Shapes: N tokens, D width, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "model/config.h"
#include "model/stage.h"

namespace olmoe {

/// The last stage: final norm, projection to the vocabulary, cross-entropy: summed over targets, or of each target in
/// Phase::score. The logits exist a chunk at a time; the forward of a training pass makes their gradients while they
/// do.
class Head : public Stage {
 public:
  explicit Head(const ModelConfig& config) : config_(config) {}
  std::vector<Param> params() override;
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override;
  /// All logits [N, V], for comparisons; no gradient.
  at::Tensor logits(const at::Tensor& x_ND) const;

 private:
  const ModelConfig& config_;
  at::Tensor norm_D_, w_VD_;
};

}  // namespace olmoe

// Shapes: N tokens, D model width, H hidden width.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

/// The feed-forward of a dense block, or the shared experts of a block, whose widths add up to one:
///   y_n = residual_n + g_n * down(silu(gate x_n) * up x_n),  g_n = sigmoid(w_1D x_n) if it is gated, else 1.
/// Source: SwiGLU, arXiv 2002.05202; the gate: Qwen1.5-MoE, Hugging Face's Qwen2MoeSparseMoeBlock.
class DenseFfn {
 public:
  enum class Gated { no, yes };
  DenseFfn(const ModelConfig& config, std::string prefix, int64_t hidden, Gated gated = Gated::no);
  StageState state();
  /// y_ND in the dtype of x.
  at::Tensor forward(const Normed& x, const at::Tensor& residual_ND);
  StageCost cost(const CostContext& context) const;
  /// Weights that the normed rows are multiplied by.
  int normed_uses() const { return gated_ == Gated::yes ? 2 : 1; }

 private:
  const ModelConfig& config_;
  std::string prefix_;
  int64_t hidden_;
  Gated gated_;
  at::Tensor gate_up_2HD_, down_DH_, gate_1D_;
};

}  // namespace olmoe

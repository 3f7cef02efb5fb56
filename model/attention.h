// Shapes: N = B*S tokens, H query heads and G key/value heads of width d, D = H*d, C = (H + 2G)*d.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "model/block/qk_norm.h"
#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

/// Tables of rotary angles, one for each sequence length asked for. A table stays in memory as long as this object
/// lives: a CUDA graph that was captured with it reads it at each replay.
class RotaryTables {
 public:
  explicit RotaryTables(const ModelConfig& config) : config_(config) {}
  /// [sequence_length, d] in fp32, or float64 if `like` is, on the device of `like` [N, ...]. For N = 0 any length
  /// serves: an existing table is returned. Throws Error if the table of that length is on another device.
  at::Tensor of(const at::Tensor& like, int64_t sequence_length);

 private:
  const ModelConfig& config_;
  std::map<int64_t, at::Tensor> by_length_;  ///< [S, d]
};

/// How the attention of a block is computed, and which.
struct AttentionOptions {
  kernels::AttentionMethod method = {};
  AttentionSpec spec;
};

/// Causal self-attention with grouped key/value heads, QK-norm and half-split rotary positions, in the order of
/// projection, norm, clip, rotation, attention, gate, projection. Source: Hugging Face's OlmoeAttention.
/// Rotations within documents are by positions in the sequence: scores depend on differences of positions alone.
class Attention {
 public:
  Attention(const ModelConfig& config, std::string prefix, AttentionOptions options);
  StageState state();
  /// y_ND, in the dtype of x, whose N rows are the tokens of `batch`.
  at::Tensor forward(const Normed& x, const Batch& batch, SavePolicy save_policy);
  /// The same without a graph for tokens whose earlier ones are in a cache, to which it adds their keys (rotated) and
  /// values. It does not depend on how a sequence is divided into calls, but for roundings.
  at::Tensor extend(const Normed& x, const CachedTokens& tokens);
  StageCost cost(const CostContext& context) const;
  /// Weights that the normed rows are multiplied by.
  int normed_uses() const { return config_.attention_gate ? 2 : 1; }

 private:
  /// Whether queries and keys are normed apart from the rotation, by qk_norm().
  bool has_separate_norm() const { return config_.qk_norm != QkNorm::none && config_.qk_norm != QkNorm::full; }
  QkWidths norm_widths() const;
  /// Fused queries, keys and values, normed where that is apart from the rotation; then what follows attention.
  at::Tensor projected(const Normed& x) const;
  at::Tensor output(const Normed& x, const at::Tensor& attended_ND) const;
  StageCost norm_cost(const CostContext& context) const;
  StageCost gate_cost(const CostContext& context) const;
  /// Of what scalable softmax adds.
  struct SoftmaxScaleCost {
    std::vector<Work> work = {};
    int64_t queries = 0;   ///< bytes beside the backward of attention: scaled queries, and their table of angles
    int64_t products = 0;  ///< after it: the table, and what the gradient of the scale is the sum of
  };
  SoftmaxScaleCost softmax_scale_cost(const CostContext& context) const;
  int64_t rotated_bytes(const CostContext& context) const;
  std::vector<Work> core_work(const CostContext& context) const;

  const ModelConfig& config_;
  std::string prefix_;
  AttentionOptions options_;
  at::Tensor qkv_CD_, q_norm_, k_norm_, gate_DD_, output_DD_;
  at::Tensor softmax_scale_H_;  ///< of model.scalable_softmax
  RotaryTables tables_;
};

}  // namespace olmoe

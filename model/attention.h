// Shapes: N = B*S tokens, H query heads, G key/value heads of width d, D = H*d, C = (H + 2G)*d.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

/// Rotary angles for sequences of each length that was asked for. A table stays where it is as long as this lives: a
/// CUDA graph that was recorded with it reads it at each replay.
class RotaryTables {
 public:
  explicit RotaryTables(const ModelConfig& config) : config_(config) {}
  /// Of at least fp32, on the device of `like`, a tensor of N tokens. Without tokens the length does not matter: any
  /// table that is there.
  at::Tensor of(const at::Tensor& like, int64_t sequence_length);

 private:
  const ModelConfig& config_;
  std::map<int64_t, at::Tensor> by_length_;  ///< [S, d]
};

/// Causal self-attention with QK-norm over the full width and half-split rotary positions.
/// Order of operations as in Hugging Face's OlmoeAttention: project, norm, clip, rotate, attend, project.
class Attention {
 public:
  Attention(const ModelConfig& config, std::string prefix, kernels::AttentionMethod method = {});
  std::vector<Param> params();
  /// For `sequences` sequences of equal length: y_ND.
  at::Tensor forward(const Normed& x, int64_t sequences, Keep keep);

 private:
  const ModelConfig& config_;
  std::string prefix_;
  kernels::AttentionMethod method_;
  at::Tensor qkv_CD_, q_norm_D_, k_norm_, output_DD_;
  RotaryTables tables_;
};

}  // namespace olmoe

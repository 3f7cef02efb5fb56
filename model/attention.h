// Shapes: N = B*S tokens, H query heads, G key/value heads of width d, D = H*d, C = (H + 2G)*d.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "model/config.h"
#include "model/layers.h"
#include "model/stage.h"

namespace olmoe {

/// Causal self-attention with QK-norm over the full width and half-split rotary positions.
/// Order of operations as in Hugging Face's OlmoeAttention: project, norm, clip, rotate, attend, project.
class Attention {
 public:
  Attention(const ModelConfig& config, std::string prefix);
  std::vector<Param> params();
  /// For `sequences` sequences of equal length: y_ND.
  at::Tensor forward(const Normed& x, int64_t sequences, Keep keep);

 private:
  at::Tensor rotary_table(const at::Tensor& like, int64_t sequence_length);

  const ModelConfig& config_;
  std::string prefix_;
  at::Tensor qkv_CD_, q_norm_D_, k_norm_, output_DD_;
  at::Tensor table_Sd_;  // kept between steps; depends on the sequence length alone
};

}  // namespace olmoe

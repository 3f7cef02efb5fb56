#pragma once
#include <cstdint>

#include "model/config.h"
#include "model/cost.h"

namespace olmoe {

/// What attention's backward is given.
struct AttentionSize {
  int64_t sequences, positions;
  bool deterministic = true;
  bool documents = false;  ///< the most that those of any length take
};
/// Bytes of what FlashAttention's backward allocates beside its operands: gradients, sums of the queries' gradient in
/// fp32 (one; deterministic, one for each turn of the multiprocessors), and sums over rows. Source: mha_bwd of ATen's
/// flash_api.cpp, LibTorch 2.11.
int64_t flash_backward_bytes(const ModelConfig& model, AttentionSize size, int multiprocessors);
/// Of what cuDNN's takes, on a GPU of compute capability 9.0: its workspace, for it writes gradients where they stay.
/// Source: what cuDNN 9.19.0 says of its plans.
int64_t cudnn_backward_bytes(const ModelConfig& model, AttentionSize size);

/// Of the context's kernel: on a CPU, and in other dtypes than bf16, nothing that is planned.
int64_t attention_backward_bytes(const ModelConfig& model, const CostContext& context);

}  // namespace olmoe

#pragma once
#include <cstdint>
#include <string_view>

#include "trainer/config/config.h"

namespace olmoe {

/// One moment of a micro-batch on one rank, in bytes.
struct Moment {
  std::string_view name;
  int64_t kept;         ///< by stages that wait for their backward
  int64_t temporaries;  ///< of the stage at work
  int64_t total() const { return kept + temporaries; }
};

/// The moment of a pass in which activations take most, from the config alone. Counts what the kernels of kernels/X.cpp
/// allocate as tensors, with experts in balance, and attention's backward in bf16 on a GPU of so many multiprocessors;
/// docs/memory.md states the formulas.
Moment fullest_moment(const Config& config, MeshShape mesh, int multiprocessors);

/// What attention's backward is given.
struct AttentionSize {
  int64_t sequences, positions;
  bool deterministic = true;
};
/// Bytes of what FlashAttention's backward allocates beside its operands: gradients, sums of the queries' gradient in
/// fp32 (one; deterministic, one for each turn of the multiprocessors), and sums over rows. Source: mha_bwd of ATen's
/// flash_api.cpp, LibTorch 2.11.
int64_t flash_backward_bytes(const ModelConfig& model, AttentionSize size, int multiprocessors);
/// Of what cuDNN's takes, on a GPU of compute capability 9.0: its workspace, for it writes gradients where they stay.
/// Source: what cuDNN 9.19.0 says of its plans.
int64_t cudnn_backward_bytes(const ModelConfig& model, AttentionSize size);

}  // namespace olmoe

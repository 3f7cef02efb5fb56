#pragma once
#include <cstdint>
#include <string_view>

#include "trainer/config.h"

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

/// Bytes of what FlashAttention's deterministic backward allocates beside its operands: gradients, partial sums of the
/// queries' gradient in fp32, one for each turn of the multiprocessors, and sums over rows. Source: mha_bwd of ATen's
/// flash_api.cpp, LibTorch 2.11.
int64_t flash_backward_bytes(const ModelConfig& model, int64_t sequences, int64_t positions, int multiprocessors);

}  // namespace olmoe

// cuDNN's fused attention for GPUs of compute capability 9.0 (H100, H200), with a backward that can be deterministic:
// what kernels/attention.cpp calls once it has checked the operands. In a program without cuDNN's front end,
// without_cudnn.cpp defines it.
#pragma once
#include "kernels/attention.h"

namespace olmoe::kernels::cudnn {

/// True if this program has it.
bool built_in();
/// Throws Error where this program does not have it, or where the cuDNN that LibTorch loaded is older than its headers.
c10::intrusive_ptr<CudnnAttention> make_attention();

}  // namespace olmoe::kernels::cudnn

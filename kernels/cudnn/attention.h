// cuDNN's fused attention for GPUs of compute capability 9.0 (H100, H200), with an optionally deterministic backward.
// Called by kernels/attention.cpp with checked operands. In a build without cuDNN's frontend, without_cudnn.cpp defines
// these functions.
#pragma once
#include "kernels/attention.h"

namespace olmoe::kernels::cudnn {

/// Whether cuDNN's frontend is built into this program.
bool built_in();
/// Throws Error if it is not built in, or if the cuDNN that LibTorch loaded is older than the headers of the build.
c10::intrusive_ptr<CudnnAttention> make_attention();

}  // namespace olmoe::kernels::cudnn

#pragma once
#include "emulation/launch.h"

namespace c10::cuda {

struct CUDAStream {
  operator cudaStream_t() const { return nullptr; }  // NOLINT(google-explicit-constructor): as in LibTorch
};
inline CUDAStream getCurrentCUDAStream() { return {}; }

}  // namespace c10::cuda

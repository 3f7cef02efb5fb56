// What kernels/*.cu define and the emulation does not have: CUTLASS's main loops and LibTorch's attention. The rest of
// kernels/without_gpu.cpp must not be linked beside the emulated kernels, so this stands for it.
#include "core/error.h"
#include "kernels/cuda_kernels.h"

namespace olmoe::kernels::cuda {
namespace {

[[noreturn]] void refuse(const char* kernel) { throw Error(fmt::format("{} is not emulated", kernel)); }

}  // namespace

Attention causal_attention(const Qkv&) { refuse("causal_attention"); }
void causal_attention_backward(const at::Tensor&, const Qkv&, const Attention&, const Qkv&, bool) {
  refuse("causal_attention_backward");
}

}  // namespace olmoe::kernels::cuda

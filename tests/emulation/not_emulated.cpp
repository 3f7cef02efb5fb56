// Functions of kernels/*.cu that are not emulated: LibTorch's attention. Replaces kernels/without_gpu.cpp, which would
// also define the emulated kernels.
#include "core/error.h"
#include "kernels/cuda_kernels.h"

namespace olmoe::kernels::cuda {
namespace {

[[noreturn]] void refuse(const char* kernel) { throw Error(fmt::format("{} is not emulated", kernel)); }

}  // namespace

AttentionOutput causal_attention(const Qkv&, const AttentionMask&) { refuse("causal_attention"); }
void causal_attention_backward(const at::Tensor&, const Qkv&, const AttentionOutput&, const Qkv&, bool,
                               const AttentionMask&) {
  refuse("causal_attention_backward");
}

}  // namespace olmoe::kernels::cuda

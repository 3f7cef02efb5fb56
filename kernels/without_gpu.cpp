// Replaces the .cu files in a build without CUDA: every kernel throws Error.
#include "core/error.h"
#include "kernels/cuda_kernels.h"

namespace olmoe::kernels::cuda {
namespace {

[[noreturn]] void refuse(const char* kernel) {
  throw Error(fmt::format("{}: the tensors are on a GPU, but this program was built without CUDA", kernel));
}

}  // namespace

void rms_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, RmsNorm&) { refuse("rms_norm"); }
void rms_norm_backward(const at::Tensor&, const at::Tensor&, const RmsNormForward&, at::Tensor&, at::Tensor&) {
  refuse("rms_norm_backward");
}
void norm_rotary(const NormRotaryOperands&, double, NormRotary&) { refuse("norm_rotary"); }
void norm_rotary_backward(const at::Tensor&, const NormRotaryOperands&, const at::Tensor&, at::Tensor&, at::Tensor&) {
  refuse("norm_rotary_backward");
}
AttentionOutput causal_attention(const Qkv&, const AttentionMask&) { refuse("causal_attention"); }
void causal_attention_backward(const at::Tensor&, const Qkv&, const AttentionOutput&, const Qkv&, bool,
                               const AttentionMask&) {
  refuse("causal_attention_backward");
}
void route(const at::Tensor&, bool, bool, RouterOutput&) { refuse("route"); }
void route_backward(const RouterGrads&, const RouterOutput&, bool, at::Tensor&) { refuse("route_backward"); }
void sort_by_expert(const at::Tensor&, Permutation&) { refuse("sort_by_expert"); }
void gather_rows(const at::Tensor&, const Permutation&, at::Tensor&) { refuse("gather_rows"); }
void combine_rows(const at::Tensor&, const Permutation&, const at::Tensor&, at::Tensor&) { refuse("combine_rows"); }
void take(const at::Tensor&, const at::Tensor&, at::Tensor&) { refuse("take"); }
void swiglu(const at::Tensor&, const at::Tensor&, at::Tensor&) { refuse("swiglu"); }
void swiglu_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, SwigluGrads&) {
  refuse("swiglu_backward");
}
void embedding(const at::Tensor&, const at::Tensor&, at::Tensor&) { refuse("embedding"); }
void embedding_backward(const at::Tensor&, const at::Tensor&, at::Tensor&) { refuse("embedding_backward"); }
void row_losses(const at::Tensor&, const at::Tensor&, at::Tensor&) { refuse("row_losses"); }
void row_losses_and_grads(at::Tensor&, const at::Tensor&, const at::Tensor&, RowLosses&) {
  refuse("row_losses_and_grads");
}
at::Tensor grouped_gemm(const at::Tensor&, const at::Tensor&, const at::Tensor&) { refuse("grouped_gemm"); }
void grouped_gemm_weight_grad(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::Tensor&, GradWrite) {
  refuse("grouped_gemm_weight_grad");
}
void gemm_weight_grad(const at::Tensor&, const at::Tensor&, at::Tensor&, GradWrite) { refuse("gemm_weight_grad"); }
void adamw(const AdamWState&, const at::Tensor&, const at::Tensor&) { refuse("adamw"); }
at::Tensor squared_norm(const at::Tensor&) { refuse("squared_norm"); }

}  // namespace olmoe::kernels::cuda

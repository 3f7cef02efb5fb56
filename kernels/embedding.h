// Shapes: N tokens, V rows, D width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// x_ND[n] = w_VD[ids[n]], in the dtype of w. ids_N: int64. Throws Error on a CPU for ids outside of [0, V); on a GPU
/// the kernel asserts.
at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD);
/// dw_VD[ids[n]] += dx_ND[n], in at least fp32 (ATen's bf16 kernel accumulates in bf16), in the order of the tokens.
void embedding_backward(const at::Tensor& dx_ND, const at::Tensor& ids_N, at::Tensor dw_VD);

}  // namespace olmoe::kernels

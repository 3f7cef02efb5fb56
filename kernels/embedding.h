// Shapes: N tokens, V rows, D width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// x_ND[n] = w_VD[ids[n]]; ids int64.
at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD);
/// dw_VD[ids[n]] += dx_ND[n], in at least fp32 (ATen's bf16 kernel accumulates in bf16), tokens in order.
void embedding_backward(const at::Tensor& dx_ND, const at::Tensor& ids_N, at::Tensor dw_VD);

}  // namespace olmoe::kernels

// Shapes: R rows sorted by expert, E experts, I inputs, O outputs. Weights are stored [E, O, I] (measured: the fast
// operand layout for bf16). offsets_E: int32, inclusive running sum of rows of each expert.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// What becomes of a weight gradient that is there: it is added to, or taken for anything and replaced.
enum class GradWrite { add, store };

/// y_RO = x_RI * w_e^T for the rows of each expert. Experts without rows are skipped.
at::Tensor grouped_gemm(const at::Tensor& x_RI, const at::Tensor& w_EOI, const at::Tensor& offsets_E);
/// dx_RI = dy_RO * w_e.
at::Tensor grouped_gemm_input_grad(const at::Tensor& dy_RO, const at::Tensor& w_EOI, const at::Tensor& offsets_E);
/// dw_EOI += dy_e^T * x_e, or stored; dw in at least fp32. Experts without rows add nothing, and are stored as zeros.
void grouped_gemm_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E,
                              at::Tensor dw_EOI, GradWrite write = GradWrite::add);

/// The dense case: y_NO = x_NI * w_OI^T, and its gradients (dw_OI at least fp32).
at::Tensor gemm(const at::Tensor& x_NI, const at::Tensor& w_OI);
at::Tensor gemm_input_grad(const at::Tensor& dy_NO, const at::Tensor& w_OI);
void gemm_weight_grad(const at::Tensor& dy_NO, const at::Tensor& x_NI, at::Tensor dw_OI,
                      GradWrite write = GradWrite::add);

}  // namespace olmoe::kernels

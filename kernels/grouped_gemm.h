// Shapes: R rows sorted by expert, E experts, I inputs, O outputs. Weights are stored [E, O, I] (measured: the fast
// operand layout for bf16). offsets_E: int32, inclusive running sum of the rows of each expert.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// Whether a weight gradient is added to its buffer or overwrites it.
enum class GradWrite { add, store };

/// Grouped GEMM: y_RO = x_RI * w_e^T over the rows of each expert. Experts without rows are skipped. These three throw
/// Error where shapes or devices do not match; on a CPU also where offsets do not cover the rows.
/// Source: dropless experts as grouped GEMMs: MegaBlocks, arXiv 2211.15841.
at::Tensor grouped_gemm(const at::Tensor& x_RI, const at::Tensor& w_EOI, const at::Tensor& offsets_E);
/// dx_RI = dy_RO * w_e.
at::Tensor grouped_gemm_input_grad(const at::Tensor& dy_RO, const at::Tensor& w_EOI, const at::Tensor& offsets_E);
/// dw_EOI += dy_e^T * x_e, or stored; dw in at least fp32. For experts without rows nothing is added, and zeros stored.
void grouped_gemm_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E,
                              at::Tensor dw_EOI, GradWrite write = GradWrite::add);

/// The dense case: y_NO = x_NI * w_OI^T, and its gradients (dw_OI in at least fp32).
at::Tensor gemm(const at::Tensor& x_NI, const at::Tensor& w_OI);
at::Tensor gemm_input_grad(const at::Tensor& dy_NO, const at::Tensor& w_OI);
void gemm_weight_grad(const at::Tensor& dy_NO, const at::Tensor& x_NI, at::Tensor dw_OI,
                      GradWrite write = GradWrite::add);

}  // namespace olmoe::kernels

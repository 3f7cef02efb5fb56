// The fused kernels of the experts for GPUs of compute capability 9.0 (H100, H200): what kernels/experts.cpp calls once
// it has checked the operands, made them contiguous and allocated what is written. bf16; scores and weight gradients
// fp32. Shapes as in kernels/experts.h. Nothing waits for the host. In a program without code for such GPUs,
// without_hopper.cpp defines them.
#pragma once
#include "kernels/experts.h"
#include "kernels/swiglu.h"

namespace olmoe::kernels::hopper {

/// True if this program has the fused kernels.
bool built_in();

void up_projection(const at::Tensor& x_TD, const ScoredRows& rows, const at::Tensor& gate_up_E2FD, ExpertsUp& out);
/// y = h down^T and dx = dz gate_up, of rows that are sorted.
void down_projection(const at::Tensor& h_RF, const Permutation& order, const at::Tensor& down_EDF, at::Tensor& y_RD);
void up_input_grad(const at::Tensor& dz_R2F, const Permutation& order, const at::Tensor& gate_up_E2FD,
                   at::Tensor& dx_RD);
/// Writes dz, h and dscore, from the product dy down that is never in memory.
void down_projection_backward(const at::Tensor& dy_TD, const ScoredRows& rows, const at::Tensor& z_R2F,
                              const at::Tensor& down_EDF, SwigluGrads& out);
/// ddown_EDF = dy^T h, dgate_up_E2FD = dz^T x, of each expert's rows; or added.
void down_weight_grad(const at::Tensor& dy_TD, const Permutation& order, const at::Tensor& h_RF, at::Tensor& ddown_EDF,
                      GradWrite write);
void up_weight_grad(const at::Tensor& x_TD, const Permutation& order, const at::Tensor& dz_R2F,
                    at::Tensor& dgate_up_E2FD, GradWrite write);

}  // namespace olmoe::kernels::hopper

// The fused kernels of the experts for GPUs of compute capability 9.0 (H100, H200). Called by kernels/experts.cpp,
// which has checked the operands, made them contiguous and allocated the results. Operands and results are bf16; scores
// and weight gradients fp32. Shapes as in kernels/experts.h. No host syncs. In a build without code for such GPUs,
// without_hopper.cpp defines these functions, and each throws Error.
#pragma once
#include "kernels/experts.h"
#include "kernels/swiglu.h"

namespace olmoe::kernels::hopper {

/// Whether the fused kernels are built into this program.
bool built_in();

/// z = gather(x) gate_up^T, and h = silu(gate) * up * score, in one kernel.
void up_projection(const at::Tensor& x_ND, const ScoredRows& rows, const at::Tensor& gate_up_E2FD, ExpertsUp& out);
/// Grouped GEMMs of sorted rows: y = h down^T, and dx = dz gate_up.
void down_projection(const at::Tensor& h_RF, const Permutation& permutation, const at::Tensor& down_EDF,
                     at::Tensor& y_RD);
void up_input_grad(const at::Tensor& dz_R2F, const Permutation& permutation, const at::Tensor& gate_up_E2FD,
                   at::Tensor& dx_RD);
/// Writes dz, h and dscore from dh = gather(dy) down, which is never stored.
void down_projection_backward(const at::Tensor& dy_ND, const ScoredRows& rows, const at::Tensor& z_R2F,
                              const at::Tensor& down_EDF, SwigluGrads& out);
/// ddown_EDF = gather(dy)^T h and dgate_up_E2FD = dz^T gather(x) over each expert's rows; stored or added.
void down_weight_grad(const at::Tensor& dy_ND, const Permutation& permutation, const at::Tensor& h_RF,
                      at::Tensor& ddown_EDF, GradWrite write);
void up_weight_grad(const at::Tensor& x_ND, const Permutation& permutation, const at::Tensor& dz_R2F,
                    at::Tensor& dgate_up_E2FD, GradWrite write);

}  // namespace olmoe::kernels::hopper

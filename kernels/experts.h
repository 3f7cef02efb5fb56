// The expert MLPs: grouped GEMMs with the gather before and the SwiGLU after them. Shapes: N tokens, R routed rows
// sorted by expert, E experts, D model width, F expert width; a row of z is gate [F] and up [F].
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"

namespace olmoe::kernels {

/// unfused: gather, grouped GEMM and SwiGLU one after the other, for every dtype and device. fused: gather and SwiGLU
/// inside the GEMM kernels, weight gradients accumulated in fp32 in place, and the remaining grouped GEMMs by the same
/// kernel; for bf16 on GPUs of compute capability 9.0.
enum class ExpertKernels { unfused, fused };

/// Whether the fused kernels are built into this program, and whether they support experts of these widths.
bool fused_experts_built_in();
bool fused_experts_fit(int64_t d_model, int64_t expert_width);
constexpr int64_t kFusedWidths = 256;  ///< both widths must be multiples of it

// All functions below throw Error where shapes, dtypes or devices do not match, and with ExpertKernels::fused where the
// fused kernels cannot compute the operands: they never fall back.

/// Routed rows, and the score of each (at least fp32). Holds references: for use as an argument.
struct ScoredRows {
  const Permutation& permutation;
  const at::Tensor& scores_R;
};

/// z = gather(x) gate_up^T of each row's expert, and h = silu(gate) * up * score.
struct ExpertsUp {
  at::Tensor z_R2F, h_RF;
};
ExpertsUp experts_up(ExpertKernels kernels, const at::Tensor& x_ND, const ScoredRows& rows,
                     const at::Tensor& gate_up_E2FD);

/// y_RD = h down^T of each row's expert.
at::Tensor experts_down(ExpertKernels kernels, const at::Tensor& h_RF, const Permutation& permutation,
                        const at::Tensor& down_EDF);

/// The buffer of a weight gradient (at least fp32, contiguous), and whether the gradient is added to it.
struct GradBuffer {
  GradBuffer(at::Tensor into, GradWrite how = GradWrite::add) : grad(std::move(into)), write(how) {}
  at::Tensor grad;
  GradWrite write;
};

/// Backward of experts_down() and of h, where the gradient of a row of y is dy of its token. `z`: of the forward. Adds
/// to ddown_EDF or stores it; for experts without rows nothing is added, and zeros stored.
struct ExpertsDownGrads {
  at::Tensor dz_R2F, dscore_R;
};
ExpertsDownGrads experts_down_backward(ExpertKernels kernels, const at::Tensor& dy_ND, const ScoredRows& rows,
                                       const at::Tensor& z_R2F, const at::Tensor& down_EDF, GradBuffer ddown_EDF);

/// dx_RD = dz gate_up of each row's expert.
at::Tensor experts_up_input_grad(ExpertKernels kernels, const at::Tensor& dz_R2F, const Permutation& permutation,
                                 const at::Tensor& gate_up_E2FD);

/// dgate_up_E2FD += dz^T gather(x) over each expert's rows, or stored. Fused (this and ddown alike), a row that is not
/// finite may also spoil the gradients of the preceding expert; so there must be no rows after the last expert's.
void experts_up_weight_grad(ExpertKernels kernels, const at::Tensor& dz_R2F, const at::Tensor& x_ND,
                            const Permutation& permutation, GradBuffer dgate_up_E2FD);

}  // namespace olmoe::kernels

// The products of the experts with what surrounds them, over rows that are gathered on the way. Shapes: T tokens, R
// routed rows sorted by expert, E experts, D model width, F expert width; a row of z is gate [F] and up [F].
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"

namespace olmoe::kernels {

/// unfused: gathering, grouped products and SwiGLU one after the other, for every dtype and device. fused: gathering
/// and SwiGLU inside the products, weight gradients summed in fp32 where they stay, and the other products by the same
/// kernel; for bf16 on GPUs of compute capability 9.0.
enum class ExpertKernels { unfused, fused };

/// True if this program has the fused kernels, and if they can compute experts of these widths.
bool fused_experts_built_in();
bool fused_experts_fit(int64_t d_model, int64_t expert_width);
constexpr int64_t kFusedWidths = 256;  ///< both are multiples of it

/// Routed rows, and the score of each (at least fp32).
struct ScoredRows {
  const Permutation& order;
  const at::Tensor& scores_R;
};

/// z = gather(x) gate_up^T of each row's expert, and h = silu(gate) * up * score.
struct ExpertsUp {
  at::Tensor z_R2F, h_RF;
};
ExpertsUp experts_up(ExpertKernels kernels, const at::Tensor& x_TD, const ScoredRows& rows,
                     const at::Tensor& gate_up_E2FD);

/// y = h down^T of each row's expert.
at::Tensor experts_down(ExpertKernels kernels, const at::Tensor& h_RF, const Permutation& order,
                        const at::Tensor& down_EDF);

/// A weight gradient (at least fp32, contiguous), and what becomes of the values in it.
struct GradBuffer {
  GradBuffer(at::Tensor into, GradWrite how = GradWrite::add) : grad(std::move(into)), write(how) {}
  at::Tensor grad;
  GradWrite write;
};

/// Backward of y_RD = h_RF down^T where a row's gradient is dy of its token, and of h: z is the forward's. Adds to
/// ddown_EDF, where experts without rows have nothing to add, or stores it, zeros for these.
struct ExpertsDownGrads {
  at::Tensor dz_R2F, dscore_R;
};
ExpertsDownGrads experts_down_backward(ExpertKernels kernels, const at::Tensor& dy_TD, const ScoredRows& rows,
                                       const at::Tensor& z_R2F, const at::Tensor& down_EDF, GradBuffer ddown_EDF);

/// dx = dz gate_up of each row's expert.
at::Tensor experts_up_input_grad(ExpertKernels kernels, const at::Tensor& dz_R2F, const Permutation& order,
                                 const at::Tensor& gate_up_E2FD);

/// dgate_up_E2FD += dz^T gather(x) of each expert's rows, or stored. Fused, and for ddown too: a row that is not finite
/// may spoil the gradients of the expert before its own; so no row may lie behind the last expert's.
void experts_up_weight_grad(ExpertKernels kernels, const at::Tensor& dz_R2F, const at::Tensor& x_TD,
                            const Permutation& order, GradBuffer dgate_up_E2FD);

}  // namespace olmoe::kernels

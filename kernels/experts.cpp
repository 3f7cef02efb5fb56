#include "kernels/experts.h"

#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

#include "kernels/expert_tiles.h"
#include "kernels/grouped_gemm.h"
#include "kernels/hopper/fused.h"
#include "kernels/rows/dtypes.h"
#include "kernels/swiglu.h"

namespace olmoe::kernels {
namespace {

static_assert(kFusedWidths % kTileM == 0 && kFusedWidths % kTileN == 0 && kFusedWidths % kTileK == 0);

/// x contiguous and aligned to 16 bytes, as TMA and vector loads require. Throws Error for other shapes, dtypes,
/// devices.
at::Tensor operand(const at::Tensor& x, at::IntArrayRef sizes, const char* name) {
  ENSURE(x.sizes() == sizes && x.scalar_type() == at::kBFloat16 && x.is_cuda(),
         "fused experts: {} must be bf16 on a GPU and have {} elements in its shape; it has {} of {} on {}", name,
         c10::multiply_integers(sizes), x.numel(), c10::toString(x.scalar_type()), x.device().str());
  const at::Tensor dense = x.contiguous();
  ENSURE(reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0, "fused experts: {} is not aligned to 16 bytes",
         name);
  return dense;
}

/// The tokens that `permutation` gathers from.
at::Tensor tokens(const at::Tensor& x_ND, const Permutation& permutation, int64_t D, const char* name) {
  return operand(x_ND, {permutation.row_NK.size(0), D}, name);
}

void ensure_rows(const Permutation& permutation, const at::Tensor& w_EOI) {
  ensure_dim(w_EOI, 3, "fused experts: a weight");
  ENSURE(permutation.offsets_E.size(0) == w_EOI.size(0), "fused experts: {} offsets for {} experts",
         permutation.offsets_E.size(0), w_EOI.size(0));
  ENSURE(permutation.assignment_R.is_contiguous() && permutation.offsets_E.is_contiguous(),
         "fused experts: the permutation must be contiguous");
}

void ensure_scores(const at::Tensor& scores_R, const Permutation& permutation) {
  ENSURE(scores_R.sizes() == permutation.assignment_R.sizes() && scores_R.is_contiguous() &&
             scores_R.scalar_type() == at::kFloat,
         "fused experts: scores must be contiguous fp32, one for each of {} rows", permutation.assignment_R.size(0));
}

void ensure_widths(int64_t D, int64_t F) {
  ENSURE(fused_experts_fit(D, F), "fused experts: widths {} and {} must be multiples of {}", D, F, kFusedWidths);
}

ExpertsUp fused_up(const at::Tensor& x_ND, const ScoredRows& rows, const at::Tensor& gate_up_E2FD) {
  ensure_rows(rows.permutation, gate_up_E2FD);
  ensure_scores(rows.scores_R, rows.permutation);
  const int64_t R = rows.permutation.assignment_R.size(0), F = gate_up_E2FD.size(1) / 2, D = gate_up_E2FD.size(2);
  ensure_widths(D, F);
  const auto x = tokens(x_ND, rows.permutation, D, "x"),
             weights = operand(gate_up_E2FD, gate_up_E2FD.sizes(), "gate_up");
  ExpertsUp out{at::empty({R, 2 * F}, x.options()), at::empty({R, F}, x.options())};
  if (R > 0) hopper::up_projection(x, rows, weights, out);
  return out;
}

at::Tensor fused_down(const at::Tensor& h_RF, const Permutation& permutation, const at::Tensor& down_EDF) {
  ensure_rows(permutation, down_EDF);
  const int64_t R = permutation.assignment_R.size(0), D = down_EDF.size(1), F = down_EDF.size(2);
  ensure_widths(D, F);
  const auto h = operand(h_RF, {R, F}, "h"), weights = operand(down_EDF, down_EDF.sizes(), "down");
  at::Tensor y_RD = at::empty({R, D}, h.options());
  if (R > 0) hopper::down_projection(h, permutation, weights, y_RD);
  return y_RD;
}

at::Tensor fused_up_input_grad(const at::Tensor& dz_R2F, const Permutation& permutation,
                               const at::Tensor& gate_up_E2FD) {
  ensure_rows(permutation, gate_up_E2FD);
  const int64_t R = permutation.assignment_R.size(0), D = gate_up_E2FD.size(2);
  ensure_widths(D, gate_up_E2FD.size(1) / 2);
  const auto dz = operand(dz_R2F, {R, gate_up_E2FD.size(1)}, "dz");
  const auto weights = operand(gate_up_E2FD, gate_up_E2FD.sizes(), "gate_up");
  at::Tensor dx_RD = at::empty({R, D}, dz.options());
  if (R > 0) hopper::up_input_grad(dz, permutation, weights, dx_RD);
  return dx_RD;
}

ExpertsDownGrads fused_down_backward(const at::Tensor& dy_ND, const ScoredRows& rows, const at::Tensor& z_R2F,
                                     const at::Tensor& down_EDF, at::Tensor& ddown_EDF, GradWrite write) {
  ensure_rows(rows.permutation, down_EDF);
  ensure_scores(rows.scores_R, rows.permutation);
  const int64_t R = rows.permutation.assignment_R.size(0), D = down_EDF.size(1), F = down_EDF.size(2);
  ensure_widths(D, F);
  const auto dy = tokens(dy_ND, rows.permutation, D, "dy"), z = operand(z_R2F, {R, 2 * F}, "z");
  const auto weights = operand(down_EDF, down_EDF.sizes(), "down");
  SwigluGrads grads{at::empty({R, 2 * F}, z.options()), at::empty({R, F}, z.options()),
                    at::empty({R}, rows.scores_R.options())};
  if (R > 0) {
    hopper::down_projection_backward(dy, rows, z, weights, grads);
    hopper::down_weight_grad(dy, rows.permutation, grads.h_RF, ddown_EDF, write);
  } else if (write == GradWrite::store) {
    ddown_EDF.zero_();
  }
  return {grads.dz_R2F, grads.dscore_R};
}

void fused_up_weight_grad(const at::Tensor& dz_R2F, const at::Tensor& x_ND, const Permutation& permutation,
                          at::Tensor& dgate_up_E2FD, GradWrite write) {
  ensure_rows(permutation, dgate_up_E2FD);
  const int64_t R = permutation.assignment_R.size(0), D = dgate_up_E2FD.size(2);
  ensure_widths(D, dgate_up_E2FD.size(1) / 2);
  const auto dz = operand(dz_R2F, {R, dgate_up_E2FD.size(1)}, "dz");
  if (R > 0)
    hopper::up_weight_grad(tokens(x_ND, permutation, D, "x"), permutation, dz, dgate_up_E2FD, write);
  else if (write == GradWrite::store)
    dgate_up_E2FD.zero_();
}

}  // namespace

bool fused_experts_built_in() { return hopper::built_in(); }

bool fused_experts_fit(int64_t d_model, int64_t expert_width) {
  return d_model > 0 && expert_width > 0 && d_model % kFusedWidths == 0 && expert_width % kFusedWidths == 0;
}

ExpertsUp experts_up(ExpertKernels kernels, const at::Tensor& x_ND, const ScoredRows& rows,
                     const at::Tensor& gate_up_E2FD) {
  if (kernels == ExpertKernels::fused) return fused_up(x_ND, rows, gate_up_E2FD);
  auto z_R2F = grouped_gemm(gather_rows(x_ND, rows.permutation), gate_up_E2FD, rows.permutation.offsets_E);
  auto h_RF = swiglu(z_R2F, rows.scores_R);
  return {z_R2F, h_RF};
}

at::Tensor experts_down(ExpertKernels kernels, const at::Tensor& h_RF, const Permutation& permutation,
                        const at::Tensor& down_EDF) {
  if (kernels == ExpertKernels::fused) return fused_down(h_RF, permutation, down_EDF);
  return grouped_gemm(h_RF, down_EDF, permutation.offsets_E);
}

at::Tensor experts_up_input_grad(ExpertKernels kernels, const at::Tensor& dz_R2F, const Permutation& permutation,
                                 const at::Tensor& gate_up_E2FD) {
  if (kernels == ExpertKernels::fused) return fused_up_input_grad(dz_R2F, permutation, gate_up_E2FD);
  return grouped_gemm_input_grad(dz_R2F, gate_up_E2FD, permutation.offsets_E);
}

ExpertsDownGrads experts_down_backward(ExpertKernels kernels, const at::Tensor& dy_ND, const ScoredRows& rows,
                                       const at::Tensor& z_R2F, const at::Tensor& down_EDF, GradBuffer ddown_EDF) {
  auto& [grad, write] = ddown_EDF;
  ensure_weight_grad(grad, z_R2F.scalar_type());
  ENSURE(grad.sizes() == down_EDF.sizes(), "experts: the gradient of down must have the shape of down");
  if (kernels == ExpertKernels::fused) return fused_down_backward(dy_ND, rows, z_R2F, down_EDF, grad, write);
  const auto dy_RD = gather_rows(dy_ND, rows.permutation);
  auto grads =
      swiglu_backward(grouped_gemm_input_grad(dy_RD, down_EDF, rows.permutation.offsets_E), z_R2F, rows.scores_R);
  grouped_gemm_weight_grad(dy_RD, grads.h_RF, rows.permutation.offsets_E, grad, write);
  return {grads.dz_R2F, grads.dscore_R};
}

void experts_up_weight_grad(ExpertKernels kernels, const at::Tensor& dz_R2F, const at::Tensor& x_ND,
                            const Permutation& permutation, GradBuffer dgate_up_E2FD) {
  auto& [grad, write] = dgate_up_E2FD;
  ensure_weight_grad(grad, dz_R2F.scalar_type());
  if (kernels == ExpertKernels::fused) return fused_up_weight_grad(dz_R2F, x_ND, permutation, grad, write);
  grouped_gemm_weight_grad(dz_R2F, gather_rows(x_ND, permutation), permutation.offsets_E, grad, write);
}

}  // namespace olmoe::kernels

// Cases for the tests of kernels/experts.h: their inputs, and a float64 reference that loops over the experts.
#pragma once
#include <ATen/ops/full.h>
#include <ATen/ops/silu.h>

#include "kernels/compare.h"
#include "kernels/experts.h"
#include "support/catch.h"

namespace olmoe::kernels::testing {

/// Routing: to half of the experts, at random; all rows to one; to as few experts as there are rows for.
enum class Spread { half, one, thin };

struct ExpertsSize {
  int64_t N, K, E, D, F;
  Spread spread;
};

struct ExpertsCase {
  explicit ExpertsCase(const ExpertsSize& s, at::ScalarType dtype)
      : permutation(sort_by_expert(ids(s), s.E)),
        scores_R(normal({s.N * s.K}, statistics_dtype(dtype), 2).abs()),
        x_ND(normal({s.N, s.D}, dtype, 3)),
        dy_ND(normal({s.N, s.D}, dtype, 4)),
        z_R2F(normal({s.N * s.K, 2 * s.F}, dtype, 5)),
        dz_R2F(normal({s.N * s.K, 2 * s.F}, dtype, 6)),
        h_RF(normal({s.N * s.K, s.F}, dtype, 11)),
        gate_up(normal({s.E, 2 * s.F, s.D}, dtype, 7) * std::pow(s.D, -0.5)),
        down(normal({s.E, s.D, s.F}, dtype, 8) * std::pow(s.F, -0.5)),
        dgate_up(normal({s.E, 2 * s.F, s.D}, statistics_dtype(dtype), 9)),
        ddown(normal({s.E, s.D, s.F}, statistics_dtype(dtype), 10)) {}

  static at::Tensor ids(const ExpertsSize& s) {
    const auto u_NK = normal({s.N, s.K}, at::kDouble, 1).abs();
    if (s.spread == Spread::one) return at::full({s.N, s.K}, s.E / 2, at::kInt);
    const int64_t used = s.spread == Spread::half ? std::max<int64_t>(1, s.E / 2) : s.E;
    return (u_NK * 1e6).to(at::kInt).remainder(used);
  }
  ExpertsCase on(at::Device device) const {
    ExpertsCase out = *this;
    for (at::Tensor* x :
         {&out.permutation.assignment_R, &out.permutation.row_NK, &out.permutation.offsets_E, &out.scores_R, &out.x_ND,
          &out.dy_ND, &out.z_R2F, &out.dz_R2F, &out.h_RF, &out.gate_up, &out.down, &out.dgate_up, &out.ddown})
      *x = x->to(device, x->scalar_type(), false, /*copy=*/true);
    return out;
  }
  ScoredRows rows() const { return {permutation, scores_R}; }

  Permutation permutation;
  at::Tensor scores_R, x_ND, dy_ND, z_R2F, dz_R2F, h_RF, gate_up, down, dgate_up, ddown;
};

/// Results of one ExpertKernels. Each function gets the case's own operands, so that errors do not accumulate.
struct ExpertsResult {
  at::Tensor z_R2F, h_RF, y_RD, dz_R2F, dscore_R, ddown, dgate_up, dx_RD;
};
inline ExpertsResult run_experts(ExpertKernels kernels, const ExpertsCase& c, GradWrite write = GradWrite::add) {
  const auto ddown = c.ddown.clone(), dgate_up = c.dgate_up.clone();
  const auto up = experts_up(kernels, c.x_ND, c.rows(), c.gate_up);
  const auto y_RD = experts_down(kernels, c.h_RF, c.permutation, c.down);
  const auto grads = experts_down_backward(kernels, c.dy_ND, c.rows(), c.z_R2F, c.down, {ddown, write});
  experts_up_weight_grad(kernels, c.dz_R2F, c.x_ND, c.permutation, {dgate_up, write});
  const auto dx_RD = experts_up_input_grad(kernels, c.dz_R2F, c.permutation, c.gate_up);
  return {up.z_R2F, up.h_RF, y_RD, grads.dz_R2F, grads.dscore_R, ddown, dgate_up, dx_RD};
}

/// The reference, in float64 on the CPU.
inline ExpertsResult experts_oracle(const ExpertsCase& c) {
  const auto wide = [](const at::Tensor& x) { return x.to(at::kDouble); };
  const int64_t R = c.z_R2F.size(0), D = c.down.size(1), F = c.down.size(2);
  const auto x_RD = wide(gather_rows(c.x_ND, c.permutation)), dy_RD = wide(gather_rows(c.dy_ND, c.permutation));
  const auto z = reference(c.z_R2F), score = reference(c.scores_R);
  const auto activated = [F](const at::Tensor& of, const at::Tensor& scores_R) {
    return at::silu(of.narrow(1, 0, F)) * of.narrow(1, F, F) * scores_R.unsqueeze(1);
  };
  const auto zeros = [R](int64_t columns) { return at::zeros({R, columns}, at::kDouble); };
  ExpertsResult out{.z_R2F = zeros(2 * F),
                    .h_RF = {},
                    .y_RD = zeros(D),
                    .dz_R2F = {},
                    .dscore_R = {},
                    .ddown = wide(c.ddown),
                    .dgate_up = wide(c.dgate_up),
                    .dx_RD = zeros(D)};
  const auto h_RF = activated(z, score);
  auto dh_RF = zeros(F);
  int64_t begin = 0;
  for (int64_t e = 0; e < c.down.size(0); ++e) {
    const int64_t rows = c.permutation.offsets_E[e].item<int64_t>() - begin;
    const auto of = [&](const at::Tensor& all) { return all.narrow(0, begin, rows); };
    of(out.z_R2F).copy_(of(x_RD).mm(wide(c.gate_up[e]).t()));
    of(out.y_RD).copy_(of(wide(c.h_RF)).mm(wide(c.down[e]).t()));
    of(out.dx_RD).copy_(of(wide(c.dz_R2F)).mm(wide(c.gate_up[e])));
    of(dh_RF).copy_(of(dy_RD).mm(wide(c.down[e])));
    out.ddown[e] += of(dy_RD).t().mm(of(h_RF).detach());
    out.dgate_up[e] += of(wide(c.dz_R2F)).t().mm(of(x_RD));
    begin += rows;
  }
  h_RF.backward(dh_RF);
  out.h_RF = activated(out.z_R2F, wide(c.scores_R));
  out.dz_R2F = z.grad();
  out.dscore_R = score.grad();
  return out;
}

/// True if gradients stored over NaN equal those added to zeros; zeros for experts without rows.
inline bool stores_what_it_adds(ExpertKernels kernels, const ExpertsCase& c) {
  ExpertsCase zeros = c, spoilt = c;
  zeros.dgate_up = at::zeros_like(c.dgate_up), zeros.ddown = at::zeros_like(c.ddown);
  spoilt.dgate_up = at::full_like(c.dgate_up, std::nan("")), spoilt.ddown = at::full_like(c.ddown, std::nan(""));
  const auto added = run_experts(kernels, zeros), stored = run_experts(kernels, spoilt, GradWrite::store);
  return at::equal(stored.ddown, added.ddown) && at::equal(stored.dgate_up, added.dgate_up);
}

/// True if the gradients of experts without rows are unchanged.
inline bool idle_untouched(const ExpertsResult& out, const ExpertsCase& c) {
  const auto offsets_E = c.permutation.offsets_E.cpu();
  for (int64_t e = 0, begin = 0; e < offsets_E.size(0); begin = offsets_E[e++].item<int64_t>())
    if (offsets_E[e].item<int64_t>() == begin &&
        !(same_bits(out.ddown[e].cpu(), c.ddown[e].cpu()) && same_bits(out.dgate_up[e].cpu(), c.dgate_up[e].cpu())))
      return false;
  return true;
}

}  // namespace olmoe::kernels::testing

// The fused kernels of the experts on a GPU compared with the unfused ones, and both with a float64 loop. Tagged
// [cuda]; without a GPU of compute capability 9.0 these fail.
#include "kernels/experts_case.h"
#include "trainer/device/cuda_device.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// Roundings of stored values before each result, for the unfused and the fused kernels. Fused, dh stays in fp32, and a
/// weight gradient has the roundings of its operands only: h is rounded, dz is already.
struct Roundings {
  int z, h, y, dz, dscore, ddown, dgate_up, dx;
};
constexpr Roundings kUnfused{1, 4, 1, 3, 2, 2, 1, 1}, kFused{1, 4, 1, 1, 0, 1, 0, 1};

void check_against(const ExpertsResult& exact, const ExpertsResult& ours, const ExpertsSize& s,
                   const Roundings& roundings) {
  // Where nothing is rounded to bf16, tensor cores may cut off as often as they add up, for each 16 terms.
  const auto within = [](int64_t terms, int count) {
    if (count > 0) return bound(at::kBFloat16, terms, count);
    return bound(at::kFloat, terms) + static_cast<double>(terms) / 16 * std::ldexp(1.0, -23);
  };
  const auto error = [](const at::Tensor& x, const at::Tensor& reference) {
    return relative_error(x.cpu(), reference);
  };
  const int64_t R = s.N * s.K;
  CHECK(error(ours.z_R2F, exact.z_R2F) <= within(s.D, roundings.z));
  CHECK(error(ours.h_RF, exact.h_RF) <= within(s.D, roundings.h));
  CHECK(error(ours.y_RD, exact.y_RD) <= within(s.F, roundings.y));
  CHECK(error(ours.dz_R2F, exact.dz_R2F) <= within(s.D, roundings.dz));
  CHECK(error(ours.dscore_R, exact.dscore_R) <= within(s.D + s.F, roundings.dscore));
  CHECK(error(ours.ddown, exact.ddown) <= within(R, roundings.ddown));
  CHECK(error(ours.dgate_up, exact.dgate_up) <= within(R, roundings.dgate_up));
  CHECK(error(ours.dx_RD, exact.dx_RD) <= within(2 * s.F, roundings.dx));
}

bool same(const ExpertsResult& a, const ExpertsResult& b) {
  return same_bits(a.z_R2F.cpu(), b.z_R2F.cpu()) && same_bits(a.h_RF.cpu(), b.h_RF.cpu()) &&
         same_bits(a.dz_R2F.cpu(), b.dz_R2F.cpu()) && same_bits(a.dscore_R.cpu(), b.dscore_R.cpu()) &&
         same_bits(a.ddown.cpu(), b.ddown.cpu()) && same_bits(a.dgate_up.cpu(), b.dgate_up.cpu()) &&
         same_bits(a.y_RD.cpu(), b.y_RD.cpu()) && same_bits(a.dx_RD.cpu(), b.dx_RD.cpu());
}

/// The case without the assignments of every third token: these have row -1.
ExpertsCase with_absent_rows(const ExpertsCase& c, int64_t E) {
  ExpertsCase out = c;
  const int64_t K = c.permutation.row_NK.size(1);
  std::vector<int32_t> assignments, rows(c.permutation.row_NK.numel(), -1), offsets;
  std::vector<int64_t> kept;
  for (int64_t e = 0, r = 0; e < E; ++e) {
    for (; r < c.permutation.offsets_E[e].item<int64_t>(); ++r) {
      const int32_t assignment = c.permutation.assignment_R[r].item<int32_t>();
      if (assignment / K % 3 == 0) continue;
      rows[assignment] = static_cast<int32_t>(assignments.size());
      assignments.push_back(assignment);
      kept.push_back(r);
    }
    offsets.push_back(static_cast<int32_t>(assignments.size()));
  }
  out.permutation = {at::tensor(assignments), at::tensor(rows).view(c.permutation.row_NK.sizes()), at::tensor(offsets)};
  const auto index = at::tensor(kept);
  for (at::Tensor* x : {&out.scores_R, &out.z_R2F, &out.dz_R2F, &out.h_RF}) *x = x->index_select(0, index);
  return out;
}

}  // namespace

TEST_CASE("GPU: fused and unfused experts equal the formula", "[cuda]") {
  const auto size = GENERATE(values<ExpertsSize>({{64, 2, 8, 256, 256, Spread::half},
                                                  {300, 4, 8, 256, 512, Spread::half},
                                                  {1, 1, 4, 256, 256, Spread::thin},
                                                  {259, 1, 3, 768, 256, Spread::one},
                                                  {40, 8, 64, 256, 256, Spread::thin},
                                                  {0, 2, 4, 256, 256, Spread::half}}));
  const bool absent = GENERATE(false, true);
  CAPTURE(size.N, size.K, size.E, size.D, size.F, absent);
  const ExpertsCase whole(size, at::kBFloat16);
  const ExpertsCase c = absent ? with_absent_rows(whole, size.E) : whole;
  const auto on_gpu = c.on(at::kCUDA);
  const auto exact = experts_oracle(c);
  const auto fused = run_experts(ExpertKernels::fused, on_gpu), unfused = run_experts(ExpertKernels::unfused, on_gpu);
  check_against(exact, unfused, size, kUnfused);
  check_against(exact, fused, size, kFused);
  CHECK(idle_untouched(fused, c));
  for (const auto kernels : {ExpertKernels::fused, ExpertKernels::unfused}) CHECK(stores_what_it_adds(kernels, on_gpu));
  CHECK(same(run_experts(ExpertKernels::fused, on_gpu), fused));
}

TEST_CASE("GPU: fused experts have no host syncs", "[cuda]") {
  const auto c = ExpertsCase({64, 2, 8, 256, 256, Spread::half}, at::kBFloat16).on(at::kCUDA);
  run_experts(ExpertKernels::fused, c);
  const olmoe::cuda::NoHostSync guard;
  CHECK_NOTHROW(run_experts(ExpertKernels::fused, c));
}

TEST_CASE("GPU: fused experts at the size of OLMoE-1B-7B", "[cuda][large]") {
  const ExpertsSize size{16384, 8, 64, 2048, 1024, Spread::thin};
  const auto device = at::TensorOptions().device(at::kCUDA);
  const auto fill = [&](at::IntArrayRef sizes, at::ScalarType dtype, double deviation) {
    return at::empty(sizes, device.dtype(dtype)).normal_(0, deviation);
  };
  const int64_t R = size.N * size.K;
  ExpertsCase c({1, 1, 1, 1, 1, Spread::one}, at::kBFloat16);  // its values are replaced by some made on the GPU
  c.permutation = sort_by_expert(ExpertsCase::ids(size).to(at::kCUDA), size.E);
  c.scores_R = fill({R}, at::kFloat, 0.1);
  c.x_ND = fill({size.N, size.D}, at::kBFloat16, 1);
  c.dy_ND = fill({size.N, size.D}, at::kBFloat16, 1);
  c.z_R2F = fill({R, 2 * size.F}, at::kBFloat16, 1);
  c.dz_R2F = fill({R, 2 * size.F}, at::kBFloat16, 1);
  c.h_RF = fill({R, size.F}, at::kBFloat16, 1);
  c.gate_up = fill({size.E, 2 * size.F, size.D}, at::kBFloat16, 0.02);
  c.down = fill({size.E, size.D, size.F}, at::kBFloat16, 0.02);
  c.dgate_up = fill({size.E, 2 * size.F, size.D}, at::kFloat, 1);
  c.ddown = fill({size.E, size.D, size.F}, at::kFloat, 1);
  const auto fused = run_experts(ExpertKernels::fused, c), unfused = run_experts(ExpertKernels::unfused, c);
  const auto near = [](const at::Tensor& a, const at::Tensor& b, int64_t terms, int roundings) {
    return relative_error(a, b) <= bound(at::kBFloat16, terms, roundings);
  };
  CHECK(near(fused.z_R2F, unfused.z_R2F, size.D, kUnfused.z + kFused.z));
  CHECK(near(fused.h_RF, unfused.h_RF, size.D, kUnfused.h + kFused.h));
  CHECK(near(fused.y_RD, unfused.y_RD, size.F, kUnfused.y + kFused.y));
  CHECK(near(fused.dz_R2F, unfused.dz_R2F, size.D, kUnfused.dz + kFused.dz));
  CHECK(near(fused.dscore_R, unfused.dscore_R, size.D + size.F, kUnfused.dscore + kFused.dscore));
  CHECK(near(fused.dx_RD, unfused.dx_RD, 2 * size.F, kUnfused.dx + kFused.dx));
  CHECK(near(fused.ddown, unfused.ddown, R, kUnfused.ddown + kFused.ddown));
  CHECK(near(fused.dgate_up, unfused.dgate_up, R, kUnfused.dgate_up + kFused.dgate_up));
  CHECK(same(run_experts(ExpertKernels::fused, c), fused));
}

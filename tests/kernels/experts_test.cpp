#include "kernels/experts.h"

#include "kernels/experts_case.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

TEST_CASE("experts and their gradients equal a loop over the experts", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto size = GENERATE(values<ExpertsSize>({{40, 2, 6, 16, 8, Spread::half},
                                                  {0, 2, 3, 8, 4, Spread::half},
                                                  {50, 3, 4, 32, 16, Spread::one},
                                                  {3, 1, 16, 8, 24, Spread::thin}}));
  CAPTURE(dtype, size.N, size.K, size.E, size.D, size.F);
  const ExpertsCase c(size, dtype);
  const auto ours = run_experts(ExpertKernels::unfused, c), exact = experts_oracle(c);
  const int64_t R = size.N * size.K;
  CHECK(relative_error(ours.z_R2F, exact.z_R2F) <= bound(dtype, size.D));
  CHECK(relative_error(ours.h_RF, exact.h_RF) <= bound(dtype, size.D, 4));
  CHECK(relative_error(ours.y_RD, exact.y_RD) <= bound(dtype, size.F, 1));
  CHECK(relative_error(ours.dz_R2F, exact.dz_R2F) <= bound(dtype, size.D, 3));
  CHECK(relative_error(ours.dscore_R, exact.dscore_R) <= bound(dtype, size.D + size.F, 2));
  CHECK(relative_error(ours.ddown, exact.ddown) <= bound(dtype, R));
  CHECK(relative_error(ours.dgate_up, exact.dgate_up) <= bound(statistics_dtype(dtype), R));
  CHECK(relative_error(ours.dx_RD, exact.dx_RD) <= bound(dtype, 2 * size.F, 1));
  CHECK(idle_untouched(ours, c));
  CHECK(stores_what_it_adds(ExpertKernels::unfused, c));
}

TEST_CASE("fused experts refuse what they cannot compute, and never fall back", "[kernels]") {
  CHECK(fused_experts_fit(2048, 1024));
  CHECK(fused_experts_fit(kFusedWidths, kFusedWidths));
  CHECK_FALSE(fused_experts_fit(2048, 1024 + 128));
  CHECK_FALSE(fused_experts_fit(2048 + 128, 1024));
  CHECK_FALSE(fused_experts_fit(0, 1024));
  const auto on_cpu = [](at::ScalarType dtype, int64_t D, int64_t F) {
    run_experts(ExpertKernels::fused, ExpertsCase({4, 2, 3, D, F, Spread::half}, dtype));
  };
  CHECK_THROWS_AS(on_cpu(at::kBFloat16, 256, 256), olmoe::Error);
  CHECK_THROWS_AS(on_cpu(at::kFloat, 256, 256), olmoe::Error);
  CHECK_THROWS_WITH(on_cpu(at::kBFloat16, 128, 256), Catch::Contains("must be multiples of 256"));
}

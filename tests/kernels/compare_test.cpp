// Tests of compare.h, the helpers of the kernel tests.
#include "kernels/compare.h"

using namespace olmoe::kernels::testing;

TEST_CASE("same_bits refuses tensors that are not in host memory, and names their device") {
  const at::Tensor here = at::zeros({3}), elsewhere = at::empty({3}, at::device(at::kMeta));
  CHECK(same_bits(here, here.clone()));
  CHECK_FALSE(same_bits(here, here + 1));
  for (const auto& [a, b] : {std::pair(here, elsewhere), std::pair(elsewhere, here)})
    CHECK_THROWS_WITH(same_bits(a, b), Catch::Contains("a tensor is on meta: give it .cpu()"));
}

TEST_CASE("relative_error is relative to the given terms, or to the result") {
  const at::Tensor expected = at::full({1}, 1e-3), actual = at::full({1}, 1.1e-3), terms = at::full({1}, -2.0);
  CHECK(relative_error(actual, expected) == Approx(0.1));
  CHECK(relative_error(actual, expected, terms) == Approx(5e-5));
}

TEST_CASE("bound grows with the roundings of sums, functions and stored values") {
  const double u = std::ldexp(1.0, -24);
  CHECK(bound(at::kFloat, 16) == Approx(16 * u));
  CHECK(bound(at::kFloat, 16, 1, 2) == Approx(24 * u));
  CHECK(bound(at::kBFloat16, 16, 2) == Approx(16 * u + std::ldexp(1.0, -7)));
}

#include "kernels/rms_norm.h"

#include <ATen/ops/ones.h>

#include "compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

constexpr double kEps = 1e-5;

at::Tensor reference_norm(const at::Tensor& x, const at::Tensor& w) {
  return x * (x.pow(2).mean(-1, true) + kEps).rsqrt() * w;
}

}  // namespace

TEST_CASE("rms_norm and its gradients equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, D] = GENERATE(table<int64_t, int64_t>({{1, 1}, {37, 131}, {300, 64}, {5, 2048}}));
  CAPTURE(dtype, N, D);
  const at::Tensor x = normal({N, D}, dtype, 1), w = normal({D}, dtype, 2),
                   dy = normal({N, D}, dtype, 3);
  const at::Tensor x_ref = reference(x), w_ref = reference(w);
  const at::Tensor y_ref = reference_norm(x_ref, w_ref);
  y_ref.backward(dy.to(at::kDouble));

  const RmsNorm out = rms_norm(x, w, kEps);
  REQUIRE(out.y_ND.scalar_type() == dtype);
  REQUIRE(out.rstd_N.scalar_type() == statistics_dtype(dtype));
  CHECK(relative_error(out.y_ND, y_ref) < bound(dtype, D, 2));
  at::Tensor dw = at::ones({D}, statistics_dtype(dtype));  // ones: the gradient is added to
  const at::Tensor dx = rms_norm_backward(dy, x, w, out.rstd_N, dw);
  if (D > 1) CHECK(relative_error(dx, x_ref.grad()) < bound(dtype, D, 1));
  CHECK(relative_error(dw, w_ref.grad() + 1) < bound(dtype, N, 1));
}

TEST_CASE("rms_norm reads strided rows and expanded gradients", "[kernels]") {
  const at::Tensor wide = normal({9, 40}, at::kFloat, 4), w = normal({13}, at::kFloat, 5);
  const at::Tensor x = wide.narrow(1, 5, 13), dy = normal({1, 13}, at::kFloat, 6).expand({9, 13});
  const RmsNorm out = rms_norm(x, w, kEps);
  CHECK(same_bits(out.y_ND, rms_norm(x.contiguous(), w, kEps).y_ND));
  at::Tensor dw = at::zeros({13}), dw_dense = at::zeros({13});
  const at::Tensor dx = rms_norm_backward(dy, x, w, out.rstd_N, dw);
  CHECK(same_bits(dx, rms_norm_backward(dy.contiguous(), x.contiguous(), w, out.rstd_N, dw_dense)));
  CHECK(same_bits(dw, dw_dense));
}

TEST_CASE("rms_norm of no rows leaves the weight gradient alone", "[kernels]") {
  const at::Tensor x = at::empty({0, 7}), w = at::ones({7});
  const RmsNorm out = rms_norm(x, w, kEps);
  CHECK(out.y_ND.sizes() == at::IntArrayRef({0, 7}));
  at::Tensor dw = at::ones({7});
  CHECK(rms_norm_backward(x, x, w, out.rstd_N, dw).numel() == 0);
  CHECK(same_bits(dw, at::ones({7})));
}

TEST_CASE("rms_norm has the same bits in every run and for any number of threads",
          "[kernels][openmp]") {
  const at::Tensor x = normal({1000, 96}, at::kFloat, 7), w = normal({96}, at::kFloat, 8);
  const at::Tensor dy = normal({1000, 96}, at::kFloat, 9);
  const RmsNorm out = rms_norm(x, w, kEps);
  at::Tensor dw = at::zeros({96}), dw_two = at::zeros({96});
  const at::Tensor dx = rms_norm_backward(dy, x, w, out.rstd_N, dw);
  const TwoThreads two;
  CHECK(same_bits(rms_norm(x, w, kEps).y_ND, out.y_ND));
  CHECK(same_bits(rms_norm_backward(dy, x, w, out.rstd_N, dw_two), dx));
  CHECK(same_bits(dw_two, dw));
}

TEST_CASE("rms_norm refuses operands that do not fit", "[kernels]") {
  const at::Tensor x = at::ones({2, 4}), w = at::ones({4});
  CHECK_THROWS_AS(rms_norm(x, at::ones({5}), kEps), olmoe::Error);
  CHECK_THROWS_AS(rms_norm(x, w.to(at::kDouble), kEps), olmoe::Error);
  CHECK_THROWS_AS(rms_norm(x.to(at::kInt), w.to(at::kInt), kEps), olmoe::Error);
  CHECK_THROWS_AS(rms_norm_backward(x, x, w, at::ones({2}), at::zeros({4}, at::kDouble)),
                  olmoe::Error);
}

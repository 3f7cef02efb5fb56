#include "kernels/rms_norm.h"

#include <ATen/ops/ones.h>

#include "kernels/compare.h"
#include "kernels/rows/elements.h"

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
  const at::Tensor x = normal({N, D}, dtype, 1), w = normal({D}, dtype, 2), dy = normal({N, D}, dtype, 3);
  const at::Tensor x_ref = reference(x), w_ref = reference(w);
  const at::Tensor y_ref = reference_norm(x_ref, w_ref);
  y_ref.backward(dy.to(at::kDouble));

  const RmsNorm out = rms_norm(x, w, kEps);
  REQUIRE(out.y_ND.scalar_type() == dtype);
  REQUIRE(out.rstd_N.scalar_type() == statistics_dtype(dtype));
  CHECK(relative_error(out.y_ND, y_ref) < bound(dtype, D, 2));
  at::Tensor dw = at::ones({D}, statistics_dtype(dtype));  // ones: the gradient is added to
  const at::Tensor dx = rms_norm_backward(dy, x, w, out.rstd_N, dw);
  CHECK(relative_error(dx, x_ref.grad(), rms_norm_grad_terms(dy, x, w, out.rstd_N)) < bound(dtype, D, 1));
  CHECK(relative_error(dw, w_ref.grad() + 1) < bound(dtype, N, 1));
}

TEST_CASE("a row of one element: a fused multiply-add stays within the tolerance of two sides") {
  const at::Tensor x = normal({7, 1}, at::kFloat, 1), w = normal({1}, at::kFloat, 2),
                   dy = normal({7, 1}, at::kFloat, 3);
  const RmsNorm out = rms_norm(x, w, kEps);
  at::Tensor dw = at::zeros({1});
  const at::Tensor ours = rms_norm_backward(dy, x, w, out.rstd_N, dw);
  at::Tensor left = at::empty_like(x), right = at::empty_like(x);  // nvcc fuses one product into the sum, g++ the other
  for (int64_t n = 0; n < x.size(0); ++n) {
    const auto value = [n](const at::Tensor& of) { return of[n].item<float>(); };
    const float weight = w.item<float>(), rstd = value(out.rstd_N);
    const float projection = rms_projection(value(dy) * weight * value(x), rstd, 1);
    left[n] = rstd * std::fma(value(dy), weight, -(value(x) * projection));
    right[n] = rstd * std::fma(-value(x), projection, value(dy) * weight);
  }
  const double tolerance = 2 * bound(at::kFloat, 1);
  const at::Tensor terms = rms_norm_grad_terms(dy, x, w, out.rstd_N);
  CHECK(relative_error(left, right) > 10 * tolerance);  // of the difference of the terms, which is eps / x^2 of them
  CHECK(relative_error(left, right, terms) <= tolerance);
  CHECK(relative_error(ours, left, terms) <= tolerance);
  CHECK(relative_error(ours, right, terms) <= tolerance);
}

TEST_CASE("add_rms_norm is a sum and its norm, with the gradient of both", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, D] = GENERATE(table<int64_t, int64_t>({{0, 4}, {1, 1}, {37, 131}, {300, 64}}));
  CAPTURE(dtype, N, D);
  const at::Tensor a = normal({N, D}, dtype, 1), b = normal({N, D}, dtype, 2), w = normal({D}, dtype, 3);
  const at::Tensor sum = a + b;  // rounded once, as ATen rounds it
  const at::Tensor x = a.clone();
  const RmsNorm out = add_rms_norm(x, b, w, kEps), norm = rms_norm(sum, w, kEps);
  CHECK(same_bits(x, sum));
  CHECK(same_bits(out.y_ND, norm.y_ND));
  CHECK(same_bits(out.rstd_N, norm.rstd_N));

  const at::Tensor dy = normal({N, D}, dtype, 4), dx_residual = normal({N, D}, dtype, 5);
  at::Tensor dw = at::ones({D}, statistics_dtype(dtype)), dw_alone = at::ones({D}, statistics_dtype(dtype));
  const at::Tensor dx = rms_norm_backward(dy, x, w, out.rstd_N, dw, dx_residual);
  const at::Tensor alone = rms_norm_backward(dy, x, w, out.rstd_N, dw_alone);
  CHECK(same_bits(dw, dw_alone));
  if (N > 0) CHECK(relative_error(dx, alone.to(at::kDouble) + dx_residual.to(at::kDouble)) < bound(dtype, 1, 2));
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
  at::Tensor sum = wide.narrow(1, 20, 13).contiguous(), sum_dense = sum.clone();
  CHECK(same_bits(add_rms_norm(sum, x, w, kEps).y_ND, add_rms_norm(sum_dense, x.contiguous(), w, kEps).y_ND));
  CHECK(same_bits(rms_norm_backward(dy, x, w, out.rstd_N, dw, x),
                  rms_norm_backward(dy, x, w, out.rstd_N, dw, x.contiguous())));
}

TEST_CASE("rms_norm of no rows leaves the weight gradient alone", "[kernels]") {
  const at::Tensor x = at::empty({0, 7}), w = at::ones({7});
  const RmsNorm out = rms_norm(x, w, kEps);
  CHECK(out.y_ND.sizes() == at::IntArrayRef({0, 7}));
  at::Tensor dw = at::ones({7});
  CHECK(rms_norm_backward(x, x, w, out.rstd_N, dw).numel() == 0);
  CHECK(same_bits(dw, at::ones({7})));
}

TEST_CASE("rms_norm has the same bits in every run and for any number of threads", "[kernels][openmp]") {
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

TEST_CASE("rms_norm refuses mismatched operands", "[kernels]") {
  const at::Tensor x = at::ones({2, 4}), w = at::ones({4});
  CHECK_THROWS_AS(rms_norm(x, at::ones({5}), kEps), olmoe::Error);
  CHECK_THROWS_AS(rms_norm(x, w.to(at::kDouble), kEps), olmoe::Error);
  CHECK_THROWS_AS(rms_norm(x.to(at::kInt), w.to(at::kInt), kEps), olmoe::Error);
  CHECK_THROWS_AS(rms_norm_backward(x, x, w, at::ones({2}), at::zeros({4}, at::kDouble)), olmoe::Error);
  CHECK_THROWS_AS(rms_norm_backward(x, x, w, at::ones({2}), at::zeros({4}), at::ones({2, 3})), olmoe::Error);
  CHECK_THROWS_AS(add_rms_norm(x.clone(), at::ones({1, 4}), w, kEps), olmoe::Error);
  CHECK_THROWS_AS(add_rms_norm(x.clone(), x.to(at::kDouble), w, kEps), olmoe::Error);
  CHECK_THROWS_AS(add_rms_norm(at::ones({4, 2}).t(), x, w, kEps), olmoe::Error);
}

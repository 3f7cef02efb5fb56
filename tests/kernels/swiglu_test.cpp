#include "kernels/swiglu.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/silu.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

TEST_CASE("swiglu and its gradients equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool scored = GENERATE(true, false);
  const auto [R, F] = GENERATE(table<int64_t, int64_t>({{1, 1}, {33, 77}, {5, 1024}}));
  CAPTURE(dtype, scored, R, F);
  const at::Tensor z = (3 * normal({R, 2 * F + 1}, dtype, 1)).narrow(1, 0, 2 * F), dh = normal({R, F}, dtype, 2);
  const at::Tensor score = scored ? normal({R}, statistics_dtype(dtype), 3) : at::Tensor();
  const at::Tensor z_ref = reference(z), score_ref = scored ? reference(score) : at::Tensor();
  at::Tensor h_ref = at::silu(z_ref.narrow(1, 0, F)) * z_ref.narrow(1, F, F);
  if (scored) h_ref = h_ref * score_ref.unsqueeze(1);
  h_ref.backward(dh.to(at::kDouble));

  CHECK(relative_error(swiglu(z, score), h_ref) < bound(dtype, 4));
  const SwigluGrads grads = swiglu_backward(dh, z, score);
  CHECK(relative_error(grads.dz_R2F, z_ref.grad()) < bound(dtype, 4));
  CHECK(same_bits(grads.h_RF, swiglu(z, score)));
  REQUIRE(grads.dscore_R.defined() == scored);
  if (scored) CHECK(relative_error(grads.dscore_R, score_ref.grad()) < bound(dtype, F, 0));
}

TEST_CASE("swiglu of extreme gates neither overflows nor hides NaN", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const double inf = std::numeric_limits<double>::infinity();
  const at::Tensor gate = at::tensor({80., -80., 200., -200., 1e4, -1e4, 0., inf}, at::kDouble).to(dtype).unsqueeze(1);
  const at::Tensor z = at::cat({gate, at::ones_like(gate)}, 1);
  const at::Tensor expected =
      at::tensor({80., -80. * std::exp(-80.), 200., 0., 1e4, 0., 0., inf}, at::kDouble).to(dtype);
  const at::Tensor h = swiglu(z, {}).squeeze(1);
  CHECK(relative_error(h.narrow(0, 0, 7), expected.narrow(0, 0, 7)) < bound(dtype, 1, 0) + 1e-30);
  CHECK(h[7].item<double>() == inf);
  CHECK(h[1].item<double>() == Approx(-80. * std::exp(-80.)).epsilon(0.01).margin(1e-40));
  CHECK(std::isnan(swiglu(at::full_like(z, std::nan("")), {})[0][0].item<double>()));
  const SwigluGrads grads = swiglu_backward(at::ones({7, 1}, z.options()), z.narrow(0, 0, 7), {});
  CHECK(grads.dz_R2F.isfinite().all().item<bool>());
}

TEST_CASE("swiglu of no rows", "[kernels]") {
  CHECK(swiglu(at::empty({0, 6}), at::empty({0})).sizes() == at::IntArrayRef({0, 3}));
  const SwigluGrads grads = swiglu_backward(at::empty({0, 3}), at::empty({0, 6}), at::empty({0}));
  CHECK(grads.dz_R2F.sizes() == at::IntArrayRef({0, 6}));
  CHECK(grads.dscore_R.numel() == 0);
}

TEST_CASE("swiglu refuses mismatched operands", "[kernels]") {
  CHECK_THROWS_AS(swiglu(at::ones({2, 5}), {}), olmoe::Error);
  CHECK_THROWS_AS(swiglu(at::ones({2, 6}), at::ones({3})), olmoe::Error);
  CHECK_THROWS_AS(swiglu(at::ones({2, 6}), at::ones({2}, at::kDouble)), olmoe::Error);
  CHECK_THROWS_AS(swiglu_backward(at::ones({2, 6}), at::ones({2, 6}), {}), olmoe::Error);
}

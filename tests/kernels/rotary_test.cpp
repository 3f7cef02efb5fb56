#include "kernels/rotary.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

constexpr double kEps = 1e-5;

/// The value rounded to `dtype`, with the gradient of the identity.
at::Tensor rounded_through(const at::Tensor& v, at::ScalarType dtype) {
  return v + (v.detach().to(dtype).to(at::kDouble) - v.detach());
}

/// Norm over the full width, clamp, and rotate_half(x) * sin + x * cos, in float64; rounded before
/// the clamp as OlmoeForCausalLM rounds, since which elements the clamp holds depends on it.
at::Tensor reference_rotary(const at::Tensor& x, const at::Tensor& w, const at::Tensor& table,
                            std::optional<double> clip, at::ScalarType dtype) {
  const int64_t N = x.size(0), S = table.size(0), d = table.size(1);
  at::Tensor v = x;
  if (w.defined()) {
    const at::Tensor normed = rounded_through(x * (x.pow(2).mean(-1, true) + kEps).rsqrt(), dtype);
    v = rounded_through(normed * w, dtype);
  }
  if (clip) v = v.clamp(-*clip, *clip);
  const at::Tensor angles = table.to(at::kDouble).repeat({(N + S - 1) / S, 1}).narrow(0, 0, N).unsqueeze(1);
  const at::Tensor cos = angles.narrow(2, 0, d / 2), sin = angles.narrow(2, d / 2, d / 2);
  const at::Tensor heads = v.reshape({N, -1, d});
  const at::Tensor a = heads.narrow(2, 0, d / 2), b = heads.narrow(2, d / 2, d / 2);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2).reshape(x.sizes());
}

}  // namespace

TEST_CASE("norm_rotary and its gradients equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool with_norm = GENERATE(true, false);
  const std::optional<double> clip = GENERATE(std::optional<double>{}, std::optional<double>{0.75});
  const auto [N, S, H, d] =
      GENERATE(table<int64_t, int64_t, int64_t, int64_t>({{1, 3, 1, 2}, {42, 21, 3, 14}, {64, 64, 2, 64}}));
  const int64_t W = H * d;
  CAPTURE(dtype, with_norm, clip.has_value(), N, W);
  const at::Tensor fused = normal({N, 2 * W + 3}, dtype, 1), x = fused.narrow(1, 3, W), dy = normal({N, W}, dtype, 2);
  const at::Tensor w = with_norm ? normal({W}, dtype, 3) : at::Tensor();
  const at::Tensor table = rotary_table(S, d, 10000, dtype);
  const at::Tensor x_ref = reference(x), w_ref = with_norm ? reference(w) : at::Tensor();
  const at::Tensor y_ref = reference_rotary(x_ref, w_ref, table, clip, dtype);
  y_ref.backward(dy.to(at::kDouble));

  const NormRotary out = norm_rotary({x, w, table, clip}, kEps);
  CHECK(relative_error(out.y_NW, y_ref) < bound(dtype, W, 3));
  REQUIRE(out.rstd_N.defined() == with_norm);
  at::Tensor dfused = at::ones({N, 2 * W + 3}, at::TensorOptions().dtype(dtype)), dx = dfused.narrow(1, 3, W);
  at::Tensor dw = with_norm ? at::ones({W}, statistics_dtype(dtype)) : at::Tensor();
  norm_rotary_backward(dy, {x, w, table, clip}, out.rstd_N, dx, dw);
  CHECK(relative_error(dx, x_ref.grad()) < bound(dtype, W, 1));
  if (with_norm) CHECK(relative_error(dw, w_ref.grad() + 1) < bound(dtype, N, 1));
  CHECK(same_bits(dfused.narrow(1, 0, 3), at::ones({N, 3}, at::TensorOptions().dtype(dtype))));
  CHECK(same_bits(dfused.narrow(1, W + 3, W), at::ones({N, W}, at::TensorOptions().dtype(dtype))));
}

TEST_CASE("the rotary table is cos and sin of position times theta^(-2j/d)", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor table = rotary_table(300, 16, 10000, dtype);
  REQUIRE(table.scalar_type() == statistics_dtype(dtype));
  for (const auto& [s, j] : {std::pair{0, 0}, {1, 0}, {299, 3}, {299, 7}}) {
    const double angle = s * std::pow(10000.0, -2.0 * j / 16);
    const double tolerance = dtype == at::kDouble ? 1e-12 : (angle + 1) * std::ldexp(1.0, -22);
    CHECK(std::abs(table[s][j].item<double>() - std::cos(angle)) < tolerance);
    CHECK(std::abs(table[s][8 + j].item<double>() - std::sin(angle)) < tolerance);
  }
}

TEST_CASE("norm_rotary of no rows", "[kernels]") {
  const at::Tensor x = at::empty({0, 8}), w = at::ones({8}), table = rotary_table(4, 4, 10000, at::kFloat);
  const NormRotary out = norm_rotary({x, w, table, {}}, kEps);
  CHECK(out.y_NW.sizes() == x.sizes());
  at::Tensor dx = at::empty({0, 8}), dw = at::ones({8});
  norm_rotary_backward(x, {x, w, table, {}}, out.rstd_N, dx, dw);
  CHECK(same_bits(dw, at::ones({8})));
}

TEST_CASE("norm_rotary has the same bits for any number of threads", "[kernels][openmp]") {
  const at::Tensor x = normal({512, 96}, at::kFloat, 4), w = normal({96}, at::kFloat, 5),
                   dy = normal({512, 96}, at::kFloat, 6);
  const at::Tensor table = rotary_table(256, 32, 10000, at::kFloat);
  const NormRotary out = norm_rotary({x, w, table, {}}, kEps);
  at::Tensor dx = at::empty_like(x), dw = at::zeros({96}), dx_two = at::empty_like(x), dw_two = at::zeros({96});
  norm_rotary_backward(dy, {x, w, table, {}}, out.rstd_N, dx, dw);
  const TwoThreads two;
  CHECK(same_bits(norm_rotary({x, w, table, {}}, kEps).y_NW, out.y_NW));
  norm_rotary_backward(dy, {x, w, table, {}}, out.rstd_N, dx_two, dw_two);
  CHECK(same_bits(dx, dx_two));
  CHECK(same_bits(dw, dw_two));
}

TEST_CASE("norm_rotary refuses mismatched operands", "[kernels]") {
  const at::Tensor x = at::ones({2, 8}), table = rotary_table(4, 4, 10000, at::kFloat);
  CHECK_THROWS_AS(rotary_table(4, 3, 10000, at::kFloat), olmoe::Error);
  CHECK_THROWS_AS(norm_rotary({at::ones({2, 6}), {}, table, {}}, kEps), olmoe::Error);
  CHECK_THROWS_AS(norm_rotary({x, at::ones({4}), table, {}}, kEps), olmoe::Error);
  CHECK_THROWS_AS(norm_rotary({x, {}, table, -1.0}, kEps), olmoe::Error);
}

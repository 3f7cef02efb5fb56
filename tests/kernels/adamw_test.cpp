#include "kernels/adamw.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <limits>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

constexpr AdamWStep kStep{4e-4, 0.9, 0.95, 1e-8, 0.1, 3};

void adamw(const AdamWState& state, const AdamWStep& step, const at::Tensor& grad_factor) {
  adamw(state, adamw_constants(step, state.param.scalar_type()), grad_factor);
}

at::Tensor factor(double value = 0.5) { return at::full({}, value, at::kDouble); }

AdamWState random_state(int64_t n, at::ScalarType dtype) {
  return {normal({n}, dtype, 1), normal({n}, dtype, 2), normal({n}, dtype, 3), normal({n}, dtype, 4).square(), {}};
}

AdamWState slice(const AdamWState& s, int64_t first, int64_t length) {
  auto part = [&](const at::Tensor& x) { return x.narrow(0, first, length); };
  return {part(s.param), part(s.grad), part(s.exp_avg), part(s.exp_avg_sq), {}};
}

}  // namespace

TEST_CASE("adamw equals the formula of Loshchilov and Hutter", "[kernels]") {
  const auto dtype = GENERATE(at::kFloat, at::kDouble);
  AdamWState s = random_state(1001, dtype);
  const at::Tensor g = s.grad.to(at::kDouble) * 0.5;
  const at::Tensor m = kStep.beta1 * s.exp_avg.to(at::kDouble) + (1 - kStep.beta1) * g;
  const at::Tensor v = kStep.beta2 * s.exp_avg_sq.to(at::kDouble) + (1 - kStep.beta2) * g * g;
  const at::Tensor m_hat = m / (1 - std::pow(kStep.beta1, 3)), v_hat = v / (1 - std::pow(kStep.beta2, 3));
  const at::Tensor expected =
      s.param.to(at::kDouble) * (1 - kStep.lr * kStep.weight_decay) - kStep.lr * m_hat / (v_hat.sqrt() + kStep.eps);
  adamw(s, kStep, factor());
  CHECK(relative_error(s.param, expected) < bound(dtype, 4));
  CHECK(s.grad.count_nonzero().item<int64_t>() == 0);
  CHECK(relative_error(s.exp_avg, m) < bound(dtype, 4));
  CHECK(relative_error(s.exp_avg_sq, v) < bound(dtype, 4));
}

TEST_CASE("adamw has the same bits whole, in slices and with two threads", "[kernels][openmp]") {
  const int64_t n = 100003, cut = 33331;
  AdamWState whole = random_state(n, at::kFloat), cut_state = random_state(n, at::kFloat);
  adamw(whole, kStep, factor());
  const TwoThreads two;
  for (const auto& [first, length] : {std::pair{int64_t{0}, cut}, std::pair{cut, n - cut}})
    adamw(slice(cut_state, first, length), kStep, factor());
  CHECK(same_bits(whole.param, cut_state.param));
  CHECK(same_bits(whole.exp_avg_sq, cut_state.exp_avg_sq));
}

TEST_CASE("adamw writes the rounded parameters too", "[kernels]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  AdamWState plain = random_state(1001, at::kFloat), s = random_state(1001, at::kFloat);
  s.rounded = at::empty({1001}, dtype);
  adamw(plain, kStep, factor());
  adamw(s, kStep, factor());
  CHECK(same_bits(s.param, plain.param));
  CHECK(same_bits(s.rounded, s.param.to(dtype)));
  s.rounded = at::empty({1000}, dtype);
  CHECK_THROWS_AS(adamw(s, kStep, factor()), olmoe::Error);
  s.rounded = at::empty({1001}, at::kDouble);
  CHECK_THROWS_AS(adamw(s, kStep, factor()), olmoe::Error);
}

TEST_CASE("adamw with a factor that is not finite updates nothing and clears the gradients", "[kernels]") {
  const double bad = GENERATE(std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity());
  AdamWState before = random_state(1001, at::kFloat), s = random_state(1001, at::kFloat);
  adamw(s, kStep, factor(bad));
  CHECK(same_bits(s.param, before.param));
  CHECK(same_bits(s.exp_avg, before.exp_avg));
  CHECK(same_bits(s.exp_avg_sq, before.exp_avg_sq));
  CHECK(s.grad.count_nonzero().item<int64_t>() == 0);
}

TEST_CASE("adamw of no parameters, and of mismatched operands", "[kernels]") {
  at::Tensor none = at::empty({0});
  adamw({none, none, none, none, {}}, kStep, factor());
  const at::Tensor two = at::ones({2});
  CHECK_THROWS_AS(adamw({two, at::ones({3}), two, two, {}}, kStep, factor()), olmoe::Error);
  CHECK_THROWS_AS(adamw({two, two, two, two, {}}, kStep, at::ones({2}, at::kDouble)), olmoe::Error);
  CHECK_THROWS_AS(adamw({two, two, two, two, {}}, kStep, at::ones({})), olmoe::Error);
  const at::Tensor constants = adamw_constants(kStep, at::kFloat);
  CHECK_THROWS_AS(adamw({two, two, two, two, {}}, constants.to(at::kDouble), factor()), olmoe::Error);
  CHECK_THROWS_AS(adamw({two, two, two, two, {}}, constants.narrow(0, 0, 7), factor()), olmoe::Error);
  CHECK_THROWS_AS(adamw_constants(kStep, at::kBFloat16), olmoe::Error);
  CHECK_THROWS_AS(adamw_constants({4e-4, 0.9, 0.95, 1e-8, 0.1, 0}, at::kFloat), olmoe::Error);
}

TEST_CASE("squared_norm sums in float64 in a fixed order", "[kernels][openmp]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const int64_t n = GENERATE(0, 1, 16384, 100003);
  CAPTURE(dtype, n);
  const at::Tensor x = normal({n}, dtype, 5);
  const at::Tensor one_thread = squared_norm(x);
  REQUIRE(one_thread.scalar_type() == at::kDouble);
  CHECK(relative_error(one_thread, x.to(at::kDouble).square().sum()) < 1e-13);
  const TwoThreads two;
  CHECK(same_bits(squared_norm(x), one_thread));
}

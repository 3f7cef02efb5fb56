#include "kernels/cross_entropy.h"

#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using olmoe::kIgnoredTarget;
using namespace olmoe::kernels::testing;

namespace {

at::Tensor random_targets(int64_t N, int64_t V) {
  at::Generator generator = at::detail::createCPUGenerator(11);
  return at::randint(V, {N}, generator, at::TensorOptions().dtype(at::kLong));
}

at::Tensor reference_loss(const at::Tensor& x, const at::Tensor& w, const at::Tensor& targets) {
  const at::Tensor log_probs = x.matmul(w.t()).log_softmax(1);
  const at::Tensor counted = targets.ne(kIgnoredTarget);
  return -(log_probs.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1) * counted).sum();
}

}  // namespace

TEST_CASE("linear_cross_entropy and its gradients equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, D, V, chunk] = GENERATE(table<int64_t, int64_t, int64_t, int64_t>(
      {{1, 1, 2, 1}, {37, 19, 101, 10}, {64, 32, 1000, 64}, {5, 8, 300, 100}}));
  CAPTURE(dtype, N, D, V, chunk);
  const at::Tensor x = normal({N, D}, dtype, 1), w = (0.5 * normal({V, D}, dtype, 2)).to(dtype);
  at::Tensor targets = random_targets(N, V);
  if (N > 4) targets.narrow(0, 1, 3).fill_(kIgnoredTarget);
  const at::Tensor x_ref = reference(x), w_ref = reference(w), loss_ref = reference_loss(x_ref, w_ref, targets);
  loss_ref.backward(at::full({}, 0.25, at::kDouble));

  const at::Tensor loss = linear_cross_entropy(x, w, targets, chunk);
  REQUIRE(loss.scalar_type() == at::kDouble);
  CHECK(relative_error(loss, loss_ref) < bound(dtype, D + V));
  at::Tensor dw = at::ones({V, D}, statistics_dtype(dtype));
  const auto seed = at::full({}, 0.25, at::kDouble);
  const auto [same_loss, dx, no_z] = linear_cross_entropy_with_grads(seed, x, w, targets, chunk, dw);
  CHECK(same_bits(same_loss, loss));
  CHECK_FALSE(no_z.defined());
  // bf16 logits of size |l| have an error of 2^-8 |l|, which the softmax propagates: 8 roundings cover |l| < 8.
  CHECK(relative_error(dx, x_ref.grad()) < bound(dtype, V, 8));
  CHECK(relative_error(dw, w_ref.grad() + 1) < bound(dtype, N + V, 8));
  if (N > 4) CHECK(same_bits(dx.narrow(0, 1, 3), at::zeros({3, D}, at::TensorOptions().dtype(dtype))));
}

TEST_CASE("with a z-loss of the logits gradients equal the formula, and its sum is over targets alone", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const int64_t N = 37, D = 19, V = 101, chunk = GENERATE(10, 64);
  const double gamma = 0.05;
  CAPTURE(dtype, chunk);
  const at::Tensor x = normal({N, D}, dtype, 1), w = (0.5 * normal({V, D}, dtype, 2)).to(dtype);
  at::Tensor targets = random_targets(N, V);
  targets.narrow(0, 1, 3).fill_(kIgnoredTarget);
  const at::Tensor x_ref = reference(x), w_ref = reference(w);
  const at::Tensor z_ref = (x_ref.matmul(w_ref.t()).logsumexp(1).square() * targets.ne(kIgnoredTarget)).sum();
  (reference_loss(x_ref, w_ref, targets) + gamma * z_ref).backward(at::full({}, 0.25, at::kDouble));

  const auto seed = at::full({}, 0.25, at::kDouble);
  at::Tensor dw = at::ones({V, D}, statistics_dtype(dtype)), of_loss = at::ones({V, D}, statistics_dtype(dtype));
  const auto out = linear_cross_entropy_with_grads({seed, gamma}, x, w, targets, chunk, dw);
  const auto without = linear_cross_entropy_with_grads(seed, x, w, targets, chunk, of_loss);
  CHECK(same_bits(out.loss, without.loss));
  CHECK_FALSE(without.z.defined());
  CHECK(relative_error(out.z, z_ref) < bound(dtype, D + V));
  CHECK(relative_error(out.dx_ND, x_ref.grad()) < bound(dtype, V, 8));
  CHECK(relative_error(dw, w_ref.grad() + 1) < bound(dtype, N + V, 8));
  CHECK(relative_error(without.dx_ND, x_ref.grad()) > 0.02);  // the z-loss is no rounding error
}

TEST_CASE("linear_cross_entropy does not depend on the chunk in float64", "[kernels]") {
  const at::Tensor x = normal({50, 12}, at::kDouble, 3), w = normal({33, 12}, at::kDouble, 4),
                   targets = random_targets(50, 33);
  const at::Tensor whole = linear_cross_entropy(x, w, targets, 50);
  CHECK(relative_error(linear_cross_entropy(x, w, targets, 7), whole) < 1e-14);
}

TEST_CASE("the weight gradient of the loss is accumulated chunk by chunk", "[kernels]") {
  const int64_t N = 23, D = 8, V = 40, chunk = 6;
  const at::Tensor x = normal({N, D}, at::kFloat, 5), w = normal({V, D}, at::kFloat, 6), targets = random_targets(N, V),
                   seed = at::full({}, 1.0 / 3, at::kDouble);
  // The reference, chunk by chunk: each adds to the sum of the previous ones.
  at::Tensor dw = at::full({V, D}, 2.0), expected_dw = at::full({V, D}, 2.0), expected_dx = at::empty({N, D});
  for (int64_t first = 0; first < N; first += chunk) {
    const auto rows = [&](const at::Tensor& t) { return t.narrow(0, first, std::min(chunk, N - first)); };
    rows(expected_dx).copy_(linear_cross_entropy_with_grads(seed, rows(x), w, rows(targets), chunk, expected_dw).dx_ND);
  }
  CHECK(same_bits(linear_cross_entropy_with_grads(seed, x, w, targets, chunk, dw).dx_ND, expected_dx));
  CHECK(same_bits(dw, expected_dw));
}

TEST_CASE("extreme logits give an exact loss", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor x = at::ones({1, 1}, at::TensorOptions().dtype(dtype));
  const at::Tensor w = at::tensor({80., -80., 0.}, at::kDouble).to(dtype).unsqueeze(1);
  CHECK(linear_cross_entropy(x, w, at::tensor({1}, at::kLong), 1).item<double>() == Approx(160.));
  CHECK(std::abs(linear_cross_entropy(x, w, at::tensor({0}, at::kLong), 1).item<double>()) < 1e-30);
  at::Tensor dw = at::zeros({3, 1}, at::TensorOptions().dtype(statistics_dtype(dtype)));
  linear_cross_entropy_with_grads(at::ones({}, at::kDouble), x, w, at::tensor({1}, at::kLong), 1, dw);
  CHECK(relative_error(dw.squeeze(1), at::tensor({1., -1., 0.}, at::kDouble)) < 1e-6);
}

TEST_CASE("no tokens, or only ignored targets, give zero loss and gradients", "[kernels]") {
  const at::Tensor w = at::ones({6, 4});
  for (const int64_t N : {0, 3}) {
    const at::Tensor x = at::ones({N, 4}), targets = at::full({N}, kIgnoredTarget, at::kLong);
    CHECK(linear_cross_entropy(x, w, targets, 2).item<double>() == 0);
    at::Tensor dw = at::ones({6, 4});
    const auto out = linear_cross_entropy_with_grads(at::ones({}, at::kDouble), x, w, targets, 2, dw);
    CHECK(out.loss.item<double>() == 0);
    CHECK(same_bits(out.dx_ND, at::zeros({N, 4})));
    CHECK(same_bits(dw, w));
  }
}

TEST_CASE("linear_cross_entropy propagates NaN, and refuses targets outside of the vocabulary", "[kernels]") {
  const at::Tensor w = at::ones({6, 4});
  CHECK(
      std::isnan(linear_cross_entropy(at::full({1, 4}, std::nan("")), w, at::zeros({1}, at::kLong), 2).item<double>()));
  CHECK_THROWS_AS(linear_cross_entropy(at::ones({1, 4}), w, at::full({1}, 6, at::kLong), 2), olmoe::Error);
  CHECK_THROWS_AS(linear_cross_entropy(at::ones({1, 4}), w, at::full({1}, -1, at::kLong), 2), olmoe::Error);
  CHECK_THROWS_AS(linear_cross_entropy(at::ones({1, 4}), w, at::zeros({1}, at::kLong), 0), olmoe::Error);
}

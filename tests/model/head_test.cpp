// The loss as an autograd function. Its kernels: tests/kernels/cross_entropy_test.cpp.
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "model/layers.h"
#include "support/catch.h"

namespace {

at::Tensor seed_of(double value) { return at::full({}, value, at::kDouble); }

/// A weight as a sharded unit binds it: a leaf with a gradient buffer.
at::Tensor bound(const at::Tensor& values) {
  auto weight = values.clone().set_requires_grad(true);
  weight.mutable_grad() = at::zeros(values.sizes());
  return weight;
}

}  // namespace

TEST_CASE("the loss computes gradients for the seed that it is given, and refuses another") {
  const auto w_VD = bound(at::tensor({1.f, 0.f, 0.f, 1.f}).view({2, 2}));
  const auto x_ND = at::tensor({1.f, 1.f}).view({1, 2}).set_requires_grad(true);
  const auto seed = seed_of(0.5);
  const auto loss = olmoe::linear_cross_entropy(x_ND, w_VD, at::tensor({1}, at::kLong), 4, seed).cross_entropy;
  CHECK(loss.item<double>() == Approx(std::log(2.)));
  SECTION("the same seed") {
    torch::autograd::backward({loss}, {seed});
    // softmax is (1/2, 1/2): d logits = 1/2 (1/2, -1/2).
    CHECK(at::equal(x_ND.grad(), at::tensor({0.25f, -0.25f}).view({1, 2})));
    CHECK(at::equal(w_VD.grad(), at::tensor({0.25f, 0.25f, -0.25f, -0.25f}).view({2, 2})));
  }
  SECTION("an equal value in another tensor") {
    CHECK_THROWS_AS(torch::autograd::backward({loss}, {seed_of(0.5)}), olmoe::Error);
  }
}

TEST_CASE("without a seed the loss has no gradient, and that of the weight does not change") {
  at::NoGradGuard no_grad;
  const auto w_VD = bound(at::ones({3, 2}));
  const auto none = at::Tensor();
  const auto loss =
      olmoe::linear_cross_entropy(at::ones({2, 2}), w_VD, at::tensor({0, 2}, at::kLong), 1, none).cross_entropy;
  CHECK(loss.item<double>() == Approx(2 * std::log(3.)));
  CHECK(!loss.requires_grad());
  CHECK(at::equal(w_VD.grad(), at::zeros({3, 2})));
}

TEST_CASE("with a weight of the z-loss the gradients are those of both, and its sum is given beside") {
  const auto w_VD = bound(at::tensor({1.f, 0.f, 0.f, 1.f}).view({2, 2}));
  const auto x_ND = at::tensor({1.f, 1.f}).view({1, 2}).set_requires_grad(true);
  const auto seed = seed_of(0.5);
  const double gamma = 0.25, lse = 1 + std::log(2.);
  const auto sums = olmoe::linear_cross_entropy(x_ND, w_VD, at::tensor({1}, at::kLong), 4, {seed, gamma});
  CHECK(sums.cross_entropy.item<double>() == Approx(std::log(2.)));
  CHECK(sums.z.item<double>() == Approx(lse * lse));
  CHECK_FALSE(sums.z.requires_grad());
  torch::autograd::backward({sums.cross_entropy}, {seed});
  // d logits = 1/2 (1/2 (1 + 2 gamma lse), 1/2 (1 + 2 gamma lse) - 1)
  const double first = 0.25 * (1 + 2 * gamma * lse), second = first - 0.5;
  CHECK(x_ND.grad().view(-1)[0].item<double>() == Approx(first));
  CHECK(x_ND.grad().view(-1)[1].item<double>() == Approx(second));
  CHECK(w_VD.grad()[1][0].item<double>() == Approx(second));
}

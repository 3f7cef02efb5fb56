// Norms that are composed of ATen's operators, against textbook formulas that autograd differentiates, against finite
// differences, and against vectors of another implementation.
#include "model/block/norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "kernels/compare.h"
#include "model/block/qk_norm.h"
#include "support/block_vectors.h"
#include "support/bound_weight.h"

namespace {

using namespace olmoe;
using namespace olmoe::kernels::testing;
using olmoe::test::bound_weight;

constexpr double kEps = 1e-5;

at::Tensor textbook(const at::Tensor& x, NormKind kind, const at::Tensor& weight, const at::Tensor& bias) {
  const auto centred = kind == NormKind::layer ? x - x.mean(-1, true) : x;
  auto y = centred / (centred.square().mean(-1, true) + kEps).sqrt();
  if (weight.defined()) y = y * weight;
  return bias.defined() ? y + bias : y;
}

/// A weight that `there` says there is: bound in `dtype`, and as a float64 leaf.
struct Weight {
  at::Tensor bound, leaf;
  Weight(bool there, at::IntArrayRef shape, at::ScalarType dtype, uint64_t seed) {
    if (!there) return;
    bound = bound_weight(1 + 0.3 * normal(shape, at::kDouble, seed), dtype);
    leaf = reference(bound);
  }
};

}  // namespace

TEST_CASE("norms and their gradients equal the formulas in every dtype") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto kind = GENERATE(NormKind::rms, NormKind::layer);
  const auto affine = GENERATE(NormAffine::none, NormAffine::weight, NormAffine::weight_and_bias);
  CAPTURE(dtype, enum_name(kind), enum_name(affine));
  constexpr int64_t kRows = 13, kWidth = 48;
  const Weight weight(affine != NormAffine::none, {kWidth}, dtype, 2);
  const Weight bias(affine == NormAffine::weight_and_bias, {kWidth}, dtype, 3);
  const auto dy = normal({kRows, kWidth}, dtype, 4);
  const auto x = (normal({kRows, kWidth}, dtype, 1) + 0.5).to(dtype).requires_grad_(true), x_ref = reference(x);
  const auto y = norm(x, {weight.bound, bias.bound}, {kind, kEps}),
             y_ref = textbook(x_ref, kind, weight.leaf, bias.leaf);
  CHECK(y.scalar_type() == dtype);
  CHECK(relative_error(y, y_ref) < bound(dtype, kWidth));
  torch::autograd::backward({y}, {dy});
  torch::autograd::backward({y_ref}, {dy.to(at::kDouble)});
  CHECK(relative_error(x.grad(), x_ref.grad()) < bound(dtype, kWidth));
  for (const auto* each : {&weight, &bias}) {
    if (!each->bound.defined()) continue;
    CHECK(each->bound.grad().scalar_type() == statistics_dtype(dtype));
    CHECK(relative_error(each->bound.grad() - 1, each->leaf.grad()) < bound(dtype, kRows * kWidth));
  }
}

TEST_CASE("a weight that rows share and weights of each group get the sums of their gradients") {
  const bool shared = GENERATE(true, false);
  constexpr int64_t kRows = 7, kGroups = 3, kWidth = 8;
  const auto shape = shared ? std::vector<int64_t>{kWidth} : std::vector<int64_t>{kGroups, kWidth};
  const Weight weight(true, shape, at::kDouble, 2);
  const auto x = normal({kRows, kGroups, kWidth}, at::kDouble, 1).requires_grad_(true), x_ref = reference(x);
  const auto dy = normal({kRows, kGroups, kWidth}, at::kDouble, 4);
  torch::autograd::backward({norm(x, {weight.bound, {}}, {NormKind::rms, kEps})}, {dy});
  torch::autograd::backward({textbook(x_ref, NormKind::rms, weight.leaf, {})}, {dy});
  CHECK(relative_error(x.grad(), x_ref.grad()) < 1e-13);
  CHECK(relative_error(weight.bound.grad() - 1, weight.leaf.grad()) < 1e-13);
}

TEST_CASE("gradients of norms are those of finite differences") {
  const auto kind = GENERATE(NormKind::rms, NormKind::layer);
  const auto x = normal({3, 6}, at::kDouble, 1), dy = normal({3, 6}, at::kDouble, 2),
             step = normal({3, 6}, at::kDouble, 3);
  const auto weight = bound_weight(1 + 0.3 * normal({6}, at::kDouble, 4), at::kDouble);
  const auto leaf = x.clone().requires_grad_(true);
  torch::autograd::backward({norm(leaf, {weight, {}}, {kind, kEps})}, {dy});
  const auto loss_at = [&](double distance) {
    return (normalize(x + distance * step, {weight.detach(), {}}, {kind, kEps}).y * dy).sum().item<double>();
  };
  constexpr double kStep = 1e-5;
  const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
  CHECK((leaf.grad() * step).sum().item<double>() == Approx(slope).epsilon(1e-8));
}

TEST_CASE("norms take rows of none") {
  const auto weight = bound_weight(at::ones({4}), at::kFloat);
  const auto x = at::zeros({0, 4}).requires_grad_(true);
  const auto y = norm(x, {weight, {}}, {NormKind::layer, kEps});
  CHECK(y.sizes() == x.sizes());
  torch::autograd::backward({y}, {at::zeros({0, 4})});
  CHECK(same_bits(weight.grad(), at::ones({4})));
}

TEST_CASE("queries and keys are normed by head or whole, and values are left as they are") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool by_head = GENERATE(true, false);
  constexpr int64_t kRows = 5, kHeads = 4, kKeys = 2, kWidth = 6, kC = (kHeads + 2 * kKeys) * kWidth;
  CAPTURE(dtype, by_head);
  const Weight q(by_head, {kHeads, kWidth}, dtype, 2), k(by_head, {kWidth}, dtype, 3);
  const QkWidths widths{kHeads * kWidth, kKeys * kWidth, by_head ? kWidth : kHeads * kWidth,
                        by_head ? kWidth : kKeys * kWidth};
  const auto qkv = normal({kRows, kC}, dtype, 1).requires_grad_(true), leaf = reference(qkv);
  const auto y = qk_norm(qkv, {q.bound, k.bound}, widths, kEps);
  const auto part = [&](int64_t first, int64_t heads, const at::Tensor& weight) {
    const auto columns = leaf.narrow(1, first, heads * kWidth);
    if (!by_head) return textbook(columns, NormKind::rms, {}, {});
    return textbook(columns.unflatten(1, {heads, kWidth}), NormKind::rms, weight, {}).flatten(1);
  };
  const auto expected = at::cat({part(0, kHeads, q.leaf), part(kHeads * kWidth, kKeys, k.leaf),
                                 leaf.narrow(1, (kHeads + kKeys) * kWidth, kKeys * kWidth)},
                                1);
  CHECK(relative_error(y, expected) < bound(dtype, kHeads * kWidth));
  CHECK(same_bits(y.slice(1, (kHeads + kKeys) * kWidth).contiguous(),
                  qkv.slice(1, (kHeads + kKeys) * kWidth).contiguous()));
  const auto dy = normal({kRows, kC}, dtype, 5);
  torch::autograd::backward({y}, {dy});
  torch::autograd::backward({expected}, {dy.to(at::kDouble)});
  CHECK(relative_error(qkv.grad(), leaf.grad()) < bound(dtype, kHeads * kWidth));
  if (!by_head) return;
  CHECK(relative_error(q.bound.grad() - 1, q.leaf.grad()) < bound(dtype, kRows * kWidth));
  CHECK(relative_error(k.bound.grad() - 1, k.leaf.grad()) < bound(dtype, kRows * kKeys * kWidth));
}

TEST_CASE("a norm after a branch, against the successor's vectors") {
  const auto h = test::by_rule(0.1, {3, 4}).narrow(0, 0, 1), gain = 1 + test::by_rule(0.3, {4}, 0.1);
  const auto branch = at::tensor({-1.7979104291, 2.2913518104, -2.0051089798, 1.7249280630}, at::kDouble).view({1, 4});
  const auto out = h + normalize(branch, {gain, {}}, {NormKind::rms, 1e-6}).y;
  const auto expected = at::tensor({-0.0557164095, 1.8130654328, -1.5895504639, -0.0172647533}, at::kDouble);
  CHECK((out.view(-1) - expected).abs().max().item<double>() < 1e-9);  // both have ten digits
}

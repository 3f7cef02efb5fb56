// The gate of attention's output, against the formula, and with the norms of heads against the successor's vectors.
#include "model/block/output_gate.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "kernels/compare.h"
#include "model/block/qk_norm.h"
#include "support/block_vectors.h"

namespace {

using namespace olmoe;
using namespace olmoe::kernels::testing;

}  // namespace

TEST_CASE("the output gate and its gradients equal the formula in every dtype") {
  const auto dtype = GENERATE(from_range(kDtypes));
  CAPTURE(dtype);
  const auto y = normal({9, 10}, dtype, 1).requires_grad_(true), z = normal({9, 10}, dtype, 2).requires_grad_(true);
  const auto y_ref = reference(y), z_ref = reference(z);
  const auto dout = normal({9, 10}, dtype, 3);
  const auto out = output_gate(y, z), expected = y_ref * at::sigmoid(z_ref);
  CHECK(out.scalar_type() == dtype);
  CHECK(relative_error(out, expected) < bound(dtype, 1, 1, 1));
  torch::autograd::backward({out}, {dout});
  torch::autograd::backward({expected}, {dout.to(at::kDouble)});
  CHECK(relative_error(y.grad(), y_ref.grad()) < bound(dtype, 1, 1, 1));
  CHECK(relative_error(z.grad(), z_ref.grad()) < bound(dtype, 1, 1, 2));
}

TEST_CASE("norms of heads with weights of their own and a gated output, against the successor's vectors") {
  constexpr int64_t kTokens = 4, kHeads = 2, kWidth = 2;
  const auto x = test::by_rule(2.0, {kTokens, 3});
  const auto wq = test::by_rule(2.1, {4, 3}), wk = test::by_rule(2.2, {2, 3}), wv = test::by_rule(2.3, {2, 3});
  const auto wg = test::by_rule(2.4, {4, 3}), wo = test::by_rule(2.5, {3, 4});
  const QkWeights gains{1 + test::by_rule(2.6, {2, 2}, 0.3), 1 + test::by_rule(2.7, {1, 2}, 0.3)};
  const auto scale_H = 1 + test::by_rule(2.8, {kHeads}, 0.5);
  const auto qkv = qk_norm(x.matmul(at::cat({wq, wk, wv}).t()), gains, {4, 2, kWidth, kWidth}, 1e-6);
  // One key head; scores are scaled by the logarithm of the keys that a token sees.
  const auto seen = at::arange(1, kTokens + 1, at::kDouble).log().view({kTokens, 1, 1});
  const auto q =
      (qkv.narrow(1, 0, 4).view({kTokens, kHeads, kWidth}) * seen * scale_H.view({1, kHeads, 1})).transpose(0, 1);
  const auto k = qkv.narrow(1, 4, 2), v = qkv.narrow(1, 6, 2);
  const auto future = at::ones({kTokens, kTokens}, at::kBool).triu(1);
  const auto scores = (q.matmul(k.t()) / std::sqrt(2.0)).masked_fill(future, -INFINITY).softmax(-1);
  const auto attended = scores.matmul(v).transpose(0, 1).reshape({kTokens, 4});
  const auto out = output_gate(attended, x.matmul(wg.t())).matmul(wo.t());
  const auto expected =
      at::tensor({-0.4206283084, 0.1399809919, -0.2275822514, -0.3298340489, -0.3454931084, -0.6133608227, 0.2873186991,
                  0.1476980080, -0.5283628625, 0.4536413052, 0.2746434352, -0.4721398392},
                 at::kDouble);
  CHECK((out.view(-1) - expected).abs().max().item<double>() < 1e-9);  // ten digits
}

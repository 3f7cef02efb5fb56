#include "kernels/attention.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// softmax(q k^T / sqrt(d), causal) v with key/value heads repeated, in float64, from [B, S, heads,
/// d].
at::Tensor reference_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t S = q.size(1), H = q.size(2), G = k.size(2), d = q.size(3);
  const at::Tensor keys = k.repeat_interleave(H / G, 2).transpose(1, 2),
                   values = v.repeat_interleave(H / G, 2).transpose(1, 2);
  const at::Tensor future = at::ones({S, S}, at::kBool).triu(1);
  const at::Tensor scores = q.transpose(1, 2).matmul(keys.transpose(2, 3)) / std::sqrt(static_cast<double>(d));
  return scores.masked_fill(future, -std::numeric_limits<double>::infinity()).softmax(3).matmul(values).transpose(1, 2);
}

struct Shape {
  int64_t B, S, H, G, d;
};

/// Gradients as in the model: column ranges of one fused gradient, which was not zero before.
Qkv gradients(const at::Tensor& dy, const Qkv& in, const AttentionOutput& forward) {
  const int64_t H = in.q_BSHd.size(2), G = in.k_BSGd.size(2);
  auto sizes = in.q_BSHd.sizes().vec();
  sizes[2] = H + 2 * G;
  const at::Tensor fused = normal(sizes, dy.scalar_type(), 11);
  const Qkv grads{fused.narrow(2, 0, H), fused.narrow(2, H, G), fused.narrow(2, H + G, G)};
  causal_attention_backward(dy, in, forward, grads);
  return grads;
}

}  // namespace

TEST_CASE("causal attention and its gradients equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [B, S, H, G, d] = GENERATE(values<Shape>({{1, 1, 1, 1, 2},
                                                       {2, 37, 4, 4, 16},
                                                       {3, 65, 6, 2, 8},
                                                       {1, 200, 2, 1, 64},
                                                       {2, 130, 2, 2, 128},
                                                       {1, 256, 1, 1, 64}}));
  CAPTURE(dtype, B, S, H, G, d);
  // As in the model: q, k and v are column ranges of one fused projection.
  const at::Tensor fused = normal({B, S, H + 2 * G, d}, dtype, 1), dy = normal({B, S, H, d}, dtype, 2);
  const at::Tensor q = fused.narrow(2, 0, H), k = fused.narrow(2, H, G), v = fused.narrow(2, H + G, G);
  const at::Tensor q_ref = reference(q), k_ref = reference(k), v_ref = reference(v),
                   y_ref = reference_attention(q_ref, k_ref, v_ref);
  y_ref.backward(dy.to(at::kDouble));

  const AttentionOutput out = causal_attention({q, k, v});
  REQUIRE(out.y_BSHd.is_contiguous());
  REQUIRE(out.lse_BHS.sizes() == at::IntArrayRef({B, H, S}));
  // bf16: scores, probabilities and output are each rounded once; gradients pass through two such GEMMs.
  CHECK(relative_error(out.y_BSHd, y_ref) < bound(dtype, S + d, 2));
  const Qkv grads = gradients(dy, {q, k, v}, out);
  // One position has one probability, 1, and no score gradient but bf16's rounding of y.
  const double alone = S == 1 && dtype == at::kBFloat16 ? 1e-2 : 0;
  CHECK(relative_error(grads.q_BSHd, q_ref.grad()) < bound(dtype, S + d, 4) + alone);
  CHECK(relative_error(grads.k_BSGd, k_ref.grad()) < bound(dtype, S + d, 4) + alone);
  CHECK(relative_error(grads.v_BSGd, v_ref.grad()) < bound(dtype, S + d, 4));
}

TEST_CASE("attention is causal", "[kernels]") {
  const at::Tensor q = normal({1, 70, 2, 16}, at::kFloat, 3), k = normal({1, 70, 2, 16}, at::kFloat, 4);
  at::Tensor v = normal({1, 70, 2, 16}, at::kFloat, 5);
  const at::Tensor before = causal_attention({q, k, v}).y_BSHd;
  v.narrow(1, 40, 30).fill_(1e6);
  const at::Tensor after = causal_attention({q, k, v}).y_BSHd;
  CHECK(same_bits(after.narrow(1, 0, 40), before.narrow(1, 0, 40)));
  CHECK(relative_error(after.narrow(1, 40, 30), before.narrow(1, 40, 30)) > 1);
}

TEST_CASE("attention takes an expanded gradient", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor q = normal({2, 9, 2, 4}, dtype, 1), one = normal({1, 1, 1, 4}, dtype, 2);
  const AttentionOutput out = causal_attention({q, q, q});
  const Qkv grads = gradients(one.expand({2, 9, 2, 4}), {q, q, q}, out),
            expected = gradients(one.repeat({2, 9, 2, 1}), {q, q, q}, out);
  CHECK(same_bits(grads.q_BSHd, expected.q_BSHd));
  CHECK(same_bits(grads.v_BSGd, expected.v_BSGd));
}

TEST_CASE("attention of an empty batch", "[kernels]") {
  const at::Tensor q = at::empty({0, 5, 4, 8}), k = at::empty({0, 5, 2, 8});
  const AttentionOutput out = causal_attention({q, k, k});
  CHECK(out.y_BSHd.sizes() == q.sizes());
  const Qkv grads = gradients(q, {q, k, k}, out);
  CHECK(grads.q_BSHd.sizes() == q.sizes());
  CHECK(grads.v_BSGd.sizes() == k.sizes());
}

TEST_CASE("attention stays finite with extreme scores", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor q = (30 * normal({1, 50, 1, 16}, at::kDouble, 6)).to(dtype),
                   k = (30 * normal({1, 50, 1, 16}, at::kDouble, 7)).to(dtype);
  const at::Tensor v = normal({1, 50, 1, 16}, dtype, 8);
  const AttentionOutput out = causal_attention({q, k, v});
  CHECK(out.y_BSHd.isfinite().all().item<bool>());
  CHECK(gradients(v, {q, k, v}, out).q_BSHd.isfinite().all().item<bool>());
}

TEST_CASE("attention has the same bits in every run with two threads", "[kernels][openmp]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const TwoThreads two;
  const at::Tensor q = normal({2, 96, 4, 32}, dtype, 9), k = normal({2, 96, 2, 32}, dtype, 10);
  const AttentionOutput first = causal_attention({q, k, k});
  const Qkv first_grads = gradients(q, {q, k, k}, first);
  for (int run = 0; run < 3; ++run) {
    const AttentionOutput again = causal_attention({q, k, k});
    CHECK(same_bits(again.y_BSHd, first.y_BSHd));
    const Qkv grads = gradients(q, {q, k, k}, again);
    CHECK(same_bits(grads.q_BSHd, first_grads.q_BSHd));
    CHECK(same_bits(grads.k_BSGd, first_grads.k_BSGd));
    CHECK(same_bits(grads.v_BSGd, first_grads.v_BSGd));
  }
}

TEST_CASE("attention refuses key/value heads that do not divide the query heads", "[kernels]") {
  const at::Tensor q = at::ones({1, 2, 3, 4}), k = at::ones({1, 2, 2, 4});
  CHECK_THROWS_AS(causal_attention({q, k, k}), olmoe::Error);
  CHECK_THROWS_AS(causal_attention({q, at::ones({1, 3, 3, 4}), at::ones({1, 3, 3, 4})}), olmoe::Error);
}

TEST_CASE("attention on a CPU has the same bits with and without `deterministic`", "[kernels]") {
  const at::Tensor q = normal({2, 70, 4, 16}, at::kFloat, 1), k = normal({2, 70, 2, 16}, at::kFloat, 2);
  const AttentionOutput out = causal_attention({q, k, k}, make_attention_method(AttentionKernel::flash, false));
  CHECK(same_bits(out.y_BSHd, causal_attention({q, k, k}).y_BSHd));
  const Qkv grads{at::empty_like(q), at::empty_like(k), at::empty_like(k)}, expected = gradients(q, {q, k, k}, out);
  causal_attention_backward(q, {q, k, k}, out, grads, make_attention_method(AttentionKernel::flash, false));
  CHECK(same_bits(grads.q_BSHd, expected.q_BSHd));
  CHECK(same_bits(grads.k_BSGd, expected.k_BSGd));
}

TEST_CASE("the head widths of cuDNN's attention are known without cuDNN", "[kernels]") {
  CHECK(cudnn_attention_fits(128));
  CHECK(cudnn_attention_fits(256));
  CHECK_FALSE(cudnn_attention_fits(20));
  CHECK_FALSE(cudnn_attention_fits(264));
  if (!cudnn_attention_built_in())
    CHECK_THROWS_WITH(make_attention_method(AttentionKernel::cudnn, true), Catch::Contains("without cuDNN"));
}

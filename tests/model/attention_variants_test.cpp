// Patterns of attention over blocks, what they cost, and scalable softmax.
#include "model/block/attention_variants.h"

#include "kernels/attention.h"
#include "kernels/rotary.h"
#include "model/block/scalable_softmax.h"
#include "model/flops.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// scale sin(1.1 n + 0.05 n^2 + salt) of n = 1, 2, ..., in row-major order.
at::Tensor waves(double salt, at::IntArrayRef sizes, double scale = 1) {
  const auto n = at::arange(1, c10::multiply_integers(sizes) + 1, at::kDouble);
  return (n * 1.1 + n * n * 0.05 + salt).sin().mul(scale).view(sizes);
}

at::Tensor per_head_norm(const at::Tensor& x_NHd, const at::Tensor& gain_Hd) {
  return x_NHd * (x_NHd.square().mean(-1, true) + 1e-6).rsqrt() * gain_Hd;
}

/// Attention of OLMo 3.5's full blocks (four tokens of width 3, two query heads and one key/value head of width 2,
/// without rotary embedding, gated), by our kernels between norms and gate.
at::Tensor olmo35_attention(const at::Tensor& bounds) {
  const auto x = waves(2.0, {4, 3});
  const auto q = per_head_norm(x.matmul(waves(2.1, {4, 3}).t()).view({4, 2, 2}), waves(2.6, {2, 2}, 0.3) + 1);
  const auto k = per_head_norm(x.matmul(waves(2.2, {2, 3}).t()).view({4, 1, 2}), waves(2.7, {1, 2}, 0.3) + 1);
  const auto v = x.matmul(waves(2.3, {2, 3}).t()).view({4, 1, 2});
  const auto table = kernels::rotary_table(1, 2, 10000, at::kDouble);
  const auto scaled = scaled_table(table, {.tokens = 4, .sequences = 1, .window = 0, .bounds = bounds});
  const auto turned = kernels::norm_rotary({q.flatten(1).contiguous(), {}, scaled, {}}, 1e-6).y_NW;
  const auto queries = scale_heads(turned, waves(2.8, {2}, 0.5) + 1).view({1, 4, 2, 2});
  const auto y = kernels::causal_attention({queries, k.unsqueeze(0), v.unsqueeze(0)}, {}, {0, bounds, bounds}).y_BSHd;
  return (y.flatten(2).squeeze(0) * x.matmul(waves(2.4, {4, 3}).t()).sigmoid()).matmul(waves(2.5, {3, 4}).t());
}

double error_of(const at::Tensor& ours, const std::vector<double>& expected) {
  return (ours.flatten() - at::tensor(expected, at::kDouble)).abs().max().item<double>();
}

}  // namespace

TEST_CASE("patterns repeat over the blocks") {
  ModelConfig model;  // 16 blocks
  for (const auto& block : model.blocks()) CHECK((block.attention.window == 0 && block.attention.rotary));
  CHECK_FALSE(model.has_windows());
  model.attention_windows = {4096, 4096, 4096, 0};  // OLMo-3
  model.position_embeddings = {PositionEmbedding::rotary, PositionEmbedding::none};
  CHECK(model.has_windows());
  const auto blocks = model.blocks();
  for (size_t l = 0; l < blocks.size(); ++l) {
    CHECK(blocks[l].attention.window == (l % 4 == 3 ? 0 : 4096));
    CHECK(blocks[l].attention.rotary == (l % 2 == 0));
  }
  model.attention_windows = {0, 0};
  CHECK_FALSE(model.has_windows());
}

TEST_CASE("keys that a query sees in the mean, the diagonal by half, counted one by one") {
  for (const int64_t positions : {1, 2, 9, 64})
    for (const int64_t window : {0, 1, 2, 5, 9, 100}) {
      double seen = 0;
      for (int64_t s = 0; s < positions; ++s) seen += static_cast<double>(window > 0 ? std::min(s + 1, window) : s + 1);
      // Of the triangle where a query sees all keys before it, half of the diagonal counts; every row of a band whole.
      const int64_t rows = window > 0 ? std::min(window, positions) : positions;
      CAPTURE(positions, window);
      CHECK(AttentionSpec{1, 1, 1, window}.mean_keys(positions) * static_cast<double>(positions) ==
            Approx(seen - 0.5 * static_cast<double>(rows)));
    }
}

TEST_CASE("FLOPs of attention fall with windows, parameters do not change") {
  ModelConfig model;
  const auto full = count_forward_flops(model, 8192);
  const auto counts = count_parameters(model);
  model.attention_windows = {4096, 4096, 4096, 0};
  const auto windows = count_forward_flops(model, 8192);
  // 12 of 16 blocks see 4096 (2 x 8192 - 4096) / (2 x 8192) = 3072 keys instead of 4096.
  CHECK(windows.attention == 4. * 2048 * (12 * 3072 + 4 * 4096));
  CHECK(full.attention == 4. * 2048 * 16 * 4096);
  CHECK(windows.total() - windows.attention == full.total() - full.attention);
  CHECK(count_flops(model, 8192).causal ==
        Approx(count_flops(ModelConfig{}, 8192).causal - 3 * (full.attention - windows.attention)));
  CHECK(count_flops(model, 8192).full_attention ==
        Approx(count_flops(ModelConfig{}, 8192).full_attention - 12. * 2048 * 12 * 4096));
  CHECK(count_flops(model, 4096).causal == count_flops(ModelConfig{}, 4096).causal);  // no key is hidden
  CHECK(count_parameters(model).total == counts.total);
  model.scalable_softmax = true;  // one number for each query head
  CHECK(count_parameters(model).total == counts.total + 16 * 16);
}

TEST_CASE("scalable softmax: ln of the keys that each position sees") {
  const auto ones = kernels::rotary_table(1, 2, 10000, at::kDouble);  // cosine 1, sine 0
  const auto logs = [&](const VisibleKeys& keys) { return scaled_table(ones, keys); };
  const auto expected = [](const std::vector<double>& keys) {
    const auto log = at::tensor(keys, at::kDouble).log();
    return at::stack({log, at::zeros_like(log)}, 1);
  };
  CHECK(at::equal(logs({.tokens = 8, .sequences = 2, .window = 0}), expected({1, 2, 3, 4})));
  CHECK(at::equal(logs({.tokens = 8, .sequences = 2, .window = 3}), expected({1, 2, 3, 3})));
  const auto bounds = at::tensor({0, 1, 4, 6, 8}, at::kInt);
  CHECK(at::equal(logs({8, 2, 0, bounds}), expected({1, 1, 2, 3, 1, 2, 1, 2})));
  CHECK(at::equal(logs({8, 2, 2, bounds}), expected({1, 1, 2, 2, 1, 2, 1, 2})));
  // Of a table of four positions, which repeats.
  const auto table = kernels::rotary_table(4, 6, 100, at::kDouble);
  const auto log = at::tensor({1., 1., 2., 3., 1., 2., 1., 2.}, at::kDouble).log().unsqueeze(1);
  CHECK(at::equal(scaled_table(table, {8, 2, 0, bounds}), at::cat({table, table}) * log));
  CHECK(scaled_table(table, {0, 0, 0, {}}).is_same(table));
}

TEST_CASE("scalable softmax: the gradients of the learned scale") {
  const auto dtype = GENERATE(at::kDouble, at::kFloat, at::kBFloat16);
  at::manual_seed(5);
  const auto x = at::randn({7, 12}).to(dtype), s = at::randn({3}).to(dtype), dy = at::randn({7, 24}).to(dtype);
  const auto x_ref = x.to(at::kDouble).requires_grad_(), s_ref = s.to(at::kDouble).requires_grad_();
  const auto y_ref = (x_ref.view({7, 3, 4}) * s_ref.view({3, 1})).flatten(1);
  const auto dx = dy.narrow(1, 6, 12);  // columns of a wider gradient
  y_ref.backward(dx.to(at::kDouble));
  auto ds = at::ones({3}, dtype == at::kDouble ? at::kDouble : at::kFloat);
  const double tolerance = dtype == at::kDouble ? 1e-14 : dtype == at::kFloat ? 1e-6 : 1e-2;
  CHECK((scale_heads(x, s).to(at::kDouble) - y_ref).abs().max().item<double>() <= 4 * tolerance);
  const auto before = dy.clone();
  scale_heads_backward(dx, x, s, ds);
  CHECK((dx.to(at::kDouble) - x_ref.grad()).abs().max().item<double>() <= 4 * tolerance);
  CHECK((ds.to(at::kDouble) - 1 - s_ref.grad()).abs().max().item<double>() <= (dtype == at::kDouble ? 1e-13 : 1e-5));
  CHECK(at::equal(dy.narrow(1, 0, 6), before.narrow(1, 0, 6)));
  CHECK(at::equal(dy.narrow(1, 18, 6), before.narrow(1, 18, 6)));
}

TEST_CASE("gated attention without rotary embedding, with scalable softmax, as OLMo 3.5 computes it") {
  const auto one = at::tensor({0, 4}, at::kInt), two = at::tensor({0, 2, 4}, at::kInt);
  CHECK(error_of(olmo35_attention(one),
                 {-0.4206283084, 0.1399809919, -0.2275822514, -0.3298340489, -0.3454931084, -0.6133608227, 0.2873186991,
                  0.1476980080, -0.5283628625, 0.4536413052, 0.2746434352, -0.4721398392}) <= 1e-10);
  CHECK(error_of(olmo35_attention(two)[3], {0.1879743080, -0.0530091410, -0.4724378043}) <= 1e-10);
}

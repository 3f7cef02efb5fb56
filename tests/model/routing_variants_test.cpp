// Sigmoid scores, biases of the choice, and what the load-balancing loss does not show.
#include "support/routing_variants.h"
#include "kernels/router.h"
#include "model/balancing_bias.h"
#include "model/flops.h"
#include "model/router.h"
#include "model/scoring.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

StepStats step_of(const at::Tensor& counts_E, const at::Tensor& quantiles_E1 = {}) {
  return {counts_E.to(at::kDouble), quantiles_E1, at::ones({}, at::kBool)};
}

at::Tensor numbers(std::vector<double> values) { return at::tensor(values, at::kDouble); }

bool near(const at::Tensor& ours, const at::Tensor& expected, double tolerance) {
  return (ours - expected).abs().max().item<double>() <= tolerance;
}

struct Routed {
  double balance;
  at::Tensor counts_E;
};

/// What a top-1 router makes of tokens whose probabilities are given: its weight is the identity.
Routed route(const at::Tensor& probs_NE) {
  ModelConfig model;
  model.num_experts = model.d_model = probs_NE.size(1);
  model.top_k = 1;
  const auto world = make_single_communicator();
  Router router(model, "router", *world);
  *router.state().params.at(0).slot = at::eye(model.num_experts, at::kDouble);
  const auto logits_NE = probs_NE.clamp_min(1e-300).log();
  const Batch batch{at::zeros({1, probs_NE.size(0)}, at::kLong), {}};
  Routing routing;
  StageContext context{batch, Phase::train, routing};
  const auto out = router.forward({logits_NE, {logits_NE, {}, 0}}, context);
  return {out.stats.losses_2[0].item<double>(), out.stats.counts_E};
}

struct Bias {
  explicit Bias(const ModelConfig& model) : config(model), bias(config) {}
  at::Tensor value() { return *bias.buffer("bias").tensor; }
  /// Assignments of the tokens, after which the bias is updated.
  at::Tensor step(const at::Tensor& logits_NE) {
    const auto keys_NE = bias.keys(logits_NE);
    const auto ids_NK = top_experts(keys_NE, config.top_k);
    const auto counts_E = at::bincount(ids_NK.flatten(), {}, config.num_experts);
    bias.end_step(step_of(counts_E, bias.quantiles(logits_NE, keys_NE)));
    return counts_E.to(at::kDouble);
  }
  const ModelConfig config;
  BalancingBias bias;
};

}  // namespace

TEST_CASE("quantile balancing: loads and biases of eight tokens on four experts") {
  auto model = tiny_model();
  model.num_experts = 4;
  model.top_k = 2;
  model.balancing_bias = ExpertBias::quantile;
  const auto n = at::arange(1, 33, at::kDouble);
  const auto logits_NE = (n * 1.1 + n * n * 0.05 + 6.0).sin().view({8, 4}) + numbers({1.5, 0.5, 0.0, -0.8});
  Bias bias(model);
  CHECK(at::equal(bias.step(logits_NE), numbers({8, 4, 4, 0})));
  CHECK(near(-bias.value(), numbers({2.0427573413, -0.1943662686, -0.1943662686, -1.6540248041}), 1e-10));
  CHECK(at::equal(bias.step(logits_NE), numbers({4, 5, 4, 3})));
  CHECK(near(-bias.value(), numbers({1.9585414423, 0.0582814286, -0.2785821677, -1.7382407032}), 1e-10));
  for (int step = 0; step < 3; ++step) {
    CHECK(at::equal(bias.step(logits_NE), numbers({5, 4, 4, 3})));
    CHECK(near(-bias.value(), numbers({1.9585414423, 0.0582814286, -0.2785821677, -1.7382407032}), 1e-10));
  }
}

TEST_CASE("a quantile of many random tokens balances them, and a rate takes a share of it") {
  auto model = tiny_model();
  model.num_experts = 8;
  model.balancing_bias = ExpertBias::quantile;
  at::manual_seed(2);
  const auto logits_NE = at::randn({4096, 8}, at::kDouble) + at::arange(8, at::kDouble) * 0.5;
  Bias whole(model);
  CHECK(whole.step(logits_NE).max().item<double>() > 2000);  // of 1024 in balance
  for (int step = 0; step < 30; ++step) whole.step(logits_NE);
  const auto balanced_E = whole.step(logits_NE);
  CHECK(balanced_E.max().item<double>() < 1.05 * 1024);
  CHECK(balanced_E.min().item<double>() > 0.95 * 1024);
  model.balancing_bias_rate = 0.25;
  Bias once(model), quarter(model);
  model.balancing_bias_rate = 1.0;
  Bias full(model);
  quarter.step(logits_NE);
  full.step(logits_NE);
  CHECK(near(quarter.value(), full.value() * 0.25, 1e-12));
}

TEST_CASE("a loss-free bias moves by its rate toward the mean load, and chooses but does not weigh") {
  auto model = tiny_model();
  model.balancing_bias = ExpertBias::loss_free;
  model.balancing_bias_rate = 0.125;
  Bias bias(model);
  bias.bias.end_step(step_of(numbers({4, 0, 2, 3, 1})));
  CHECK(at::equal(bias.value(), numbers({-0.125, 0.125, 0, -0.125, 0.125})));
  bias.bias.end_step(step_of(numbers({2, 2, 2, 2, 2})));
  CHECK(at::equal(bias.value(), numbers({-0.125, 0.125, 0, -0.125, 0.125})));

  model.num_experts = 3;
  model.top_k = 1;
  const auto world = make_single_communicator();
  Router router(model, "router", *world);
  const auto state = router.state();
  *state.params.at(0).slot = at::eye(3, at::kDouble);
  model.d_model = 3;
  const auto logits_NE = numbers({0.3, 0.2, 0.0}).view({1, 3});
  state.buffers.at(0).tensor->copy_(numbers({0, 0.1, 0}));
  CHECK(state.buffers.at(0).name == "router.balancing_bias");
  const Batch batch{at::zeros({1, 1}, at::kLong), {}};
  Routing routing;
  StageContext context{batch, Phase::eval, routing};
  const auto out = router.forward({logits_NE, {logits_NE, {}, 0}}, context);
  CHECK(routing.ids_NK.item<int>() == 1);
  CHECK(out.scores_NK.item<double>() == Approx(logits_NE.softmax(1)[0][1].item<double>()).epsilon(1e-14));
}

TEST_CASE("ties of a choice go to the lower index, on one expert more than one as well") {
  const auto keys_NE = numbers({1, 2, 2, 1, 2, 2, 2, 0, 0, 0, 0, 0}).view({2, 6});
  const auto expected = at::tensor({1, 2, 4, 0, 1, 2}, at::kInt).view({2, 3});
  CHECK(at::equal(top_experts(keys_NE, 3), expected));
}

TEST_CASE("a load-balancing loss below 1 hides imbalance: 14/15 at a load of 2 to 4") {
  const auto routed = route(numbers({.45, .55, .45, .55, .45, .55, .45, .55, .9, .1, .9, .1}).view({6, 2}));
  CHECK(routed.balance == Approx(14. / 15).epsilon(1e-14));
  CHECK(at::equal(routed.counts_E, numbers({2, 4})));
}

TEST_CASE("a load-balancing loss of 4/49 with 48 dead experts of 64") {
  const auto probs_NE = at::zeros({16, 64}, at::kDouble);
  for (int64_t token = 0; token < 16; ++token) probs_NE[token][token] = 1. / 49;
  probs_NE.narrow(1, 16, 48).fill_(1. / 49);
  const auto routed = route(probs_NE);
  CHECK(routed.balance == Approx(4. / 49).epsilon(1e-12));
  CHECK(at::equal(routed.counts_E, at::ones({64}, at::kDouble).masked_fill(at::arange(64) >= 16, 0)));
}

TEST_CASE("the entropy of a router: ln E where it is even, 0 where it is sure, of sigmoid scores over their sum") {
  auto model = tiny_model();
  const auto score = GENERATE(RouterScore::softmax, RouterScore::sigmoid);
  model.router_score = score;
  model.num_experts = model.d_model = 4;
  const auto world = make_single_communicator();
  Router router(model, "router", *world);
  *router.state().params.at(0).slot = at::eye(4, at::kDouble);
  const auto entropy_of = [&](std::vector<double> logits) {
    const auto x_NE = numbers(std::move(logits)).view({1, 4});
    const Batch batch{at::zeros({1, 1}, at::kLong), {}};
    Routing routing;
    StageContext context{batch, Phase::eval, routing};
    return router.forward({x_NE, {x_NE, {}, 0}}, context).stats.entropy_1.item<double>();
  };
  CHECK(entropy_of({2, 2, 2, 2}) == Approx(std::log(4.)).epsilon(1e-14));
  CHECK(entropy_of({40, -700, -700, -700}) == Approx(0).margin(1e-12));
}

TEST_CASE("parameters and FLOPs of shared experts and dense layers, counted by hand") {
  auto model = tiny_model();  // three blocks, D 24, five experts of width 12, K 2
  model.num_layers = 4;
  model.dense_layers = 1;
  model.moe_every = 2;  // blocks 0, 1 and 3 are dense, 2 has experts
  model.dense_width = 20;
  model.num_shared_experts = 3;
  model.shared_expert_width = 7;
  model.shared_expert_gate = true;
  REQUIRE(validate(model, "model").empty());
  CHECK(model.num_moe_layers() == 1);
  CHECK(model.is_moe_layer(2));
  constexpr int64_t kOutside = 2 * 50 * 24 + 24, kAttention = 48 * 24 + 24 * 24 + 24 + 12 + 2 * 24;
  constexpr int64_t kDense = 3 * 24 * 20, kShared = 3 * 24 * 21 + 24, kRouter = 5 * 24, kExpert = 3 * 24 * 12;
  const auto counts = count_parameters(model);
  CHECK(counts.total == kOutside + 4 * kAttention + 3 * kDense + kRouter + 5 * kExpert + kShared);
  CHECK(counts.active == kOutside + 4 * kAttention + 3 * kDense + kRouter + 2 * kExpert + kShared);
  const auto flops = count_forward_flops(model, 16);
  CHECK(flops.ffn == 2. * (3 * kDense + 2 * kExpert + kShared));
  CHECK(flops.router == 2. * kRouter);
  const double norms = 6. * (4 * (3 * 24 + 12) + 24);
  CHECK(3 * flops.total() + norms == Approx(count_flops(model, 16).causal).epsilon(1e-12));
}

TEST_CASE("the dense twin of a variant is as wide as what a token uses") {
  auto model = tiny_model();
  model.num_shared_experts = 2;
  model.dense_layers = 1;
  CHECK(model.dense_hidden() == 2 * 12 + 2 * 12);
  model.ffn = Ffn::dense;
  CHECK(validate(model, "model").empty());
  CHECK(model.num_moe_layers() == 0);
}

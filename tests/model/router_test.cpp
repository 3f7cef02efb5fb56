// What the dense oracle does not cover: a given choice of experts, the precision of the router's GEMM, global balance.
#include "model/router.h"

#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;

/// A router with random weights.
struct TestRouter {
  explicit TestRouter(const ModelConfig& model, at::ScalarType dtype)
      : world(make_single_communicator()), router(model, "router", *world) {
    at::manual_seed(5);
    auto param = router.state().params.at(0);
    *param.slot = at::randn(param.shape, at::kDouble).to(dtype);
    weight = *param.slot;
  }
  std::unique_ptr<Communicator> world;
  RouterOut forward(const at::Tensor& x_ND, int64_t sequences, Routing& routing, Phase phase = Phase::train) {
    const Batch batch{at::zeros({sequences, x_ND.size(0) / sequences}, at::kLong), {}};
    StageContext context{batch, phase, routing};
    return router.forward({x_ND, {x_ND, {}, 0}}, context);
  }
  Router router;
  at::Tensor weight;
};

}  // namespace

TEST_CASE("a choice of experts in the routing is used, not made again") {
  const auto model = test::tiny_model();
  TestRouter test(model, at::kDouble);
  const auto x_ND = at::randn({12, model.d_model}, at::kDouble);
  Routing own;
  test.forward(x_ND, 3, own);
  REQUIRE(own.ids_NK.defined());

  const auto other_NK = (own.ids_NK + 1).remainder(model.num_experts).to(at::kInt);
  Routing given;
  given.ids_NK = other_NK;
  const auto out = test.forward(x_ND, 3, given);
  CHECK(given.ids_NK.is_same(other_NK));
  const auto counts_E = out.stats.counts_E.to(at::kLong);
  CHECK(at::equal(counts_E, at::bincount(other_NK.flatten(), {}, model.num_experts)));
  const auto probs_NE = x_ND.matmul(test.weight.t()).softmax(-1);
  CHECK(at::allclose(out.scores_NK, probs_NE.gather(1, other_NK.to(at::kLong)), 1e-12, 0));
}

TEST_CASE("the router's GEMM is in fp32 under bf16 compute, or in bf16 if router_dtype says so") {
  auto model = test::tiny_model();
  model.d_model = 256;
  const auto x_ND = at::randn({64, model.d_model}, at::kDouble).to(at::kBFloat16);
  auto largest_error = [&](RouterDtype dtype) {
    model.router_dtype = dtype;
    TestRouter test(model, at::kBFloat16);
    Routing routing;
    const auto out = test.forward(x_ND, 4, routing);
    CHECK(out.scores_NK.scalar_type() == at::kFloat);
    const auto logits_NE = x_ND.to(at::kDouble).matmul(test.weight.to(at::kDouble).t());
    const auto exact_NK = logits_NE.log_softmax(-1).gather(1, routing.ids_NK.to(at::kLong));
    return (out.scores_NK.to(at::kDouble).log() - exact_NK).abs().max().item<double>();
  };
  // Logits reach 2^6: rounded to 8 bits they are off by up to 2^-3, in fp32 by some 2^-18.
  CHECK(largest_error(RouterDtype::float32) < 1e-4);
  const double rounded = largest_error(RouterDtype::compute);
  CHECK(rounded > 1e-2);
  CHECK(rounded < 0.5);
}

TEST_CASE("global load balancing sums assignments over ranks once per choice, and in training only") {
  auto model = test::tiny_model();
  const auto x_ND = at::randn({12, model.d_model}, at::kDouble);
  const auto calls = [&](std::initializer_list<Phase> phases) {
    TestRouter test(model, at::kDouble);
    Routing routing;
    for (const auto phase : phases) test.forward(x_ND, 3, routing, phase);
    return test.world->diagnostics().traffic().all_reduce.calls;
  };
  CHECK(calls({Phase::train, Phase::recompute}) == 0);
  model.load_balancing_granularity = BalanceGranularity::global;
  CHECK(calls({Phase::train, Phase::recompute}) == 1);
  CHECK(calls({Phase::eval}) == 0);
}

// Sparse upcycling: the first forward is the dense model's, and every range of a parameter is what the whole is.
#include "trainer/conversion/upcycling.h"

#include <set>

#include "core/error.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "trainer/conversion/param_stream.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;

constexpr double kTolerance = 1e-6;  // of the loss, relative: fp32 sums in another order

ModelConfig dense_model() {
  auto model = test::tiny_model();
  model.ffn = Ffn::dense;
  model.dense_width = 12;
  return model;
}

double loss_of(const ModelConfig& model, const ParamSource& weights, at::ScalarType dtype) {
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh), mesh, test::runner_options(dtype));
  fill_weights(runner.units(), weights);
  const auto batch = test::batch_of(at::arange(40, at::kLong).mul(7).remainder(model.vocab_size).view({2, 20}));
  runner.reset_totals();
  runner.train_micro_batch(batch, loss_scale(batch.num_targets, 1.0));
  return runner.totals().losses_3[0].item<double>() / static_cast<double>(batch.num_targets);
}

at::Tensor whole(const ParamSource& source, const std::string& name, int64_t numel) {
  auto out = at::empty({numel}, at::kFloat);
  source(name, 0, out);
  return out;
}

std::string refusal(const ModelConfig& source, const Upcycling& options) {
  try {
    upcycled_config(source, options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("an upcycled model's first loss is the dense model's") {
  auto llama = dense_model(), one_expert = test::tiny_model();
  llama.qk_norm = QkNorm::none;
  one_expert.num_experts = one_expert.top_k = 1;
  auto sigmoid = dense_model();
  sigmoid.router_score = RouterScore::sigmoid;
  sigmoid.balancing_bias = ExpertBias::loss_free;
  for (const auto& dense : {dense_model(), llama, one_expert, sigmoid}) {
    const auto weights = random_init(dense, 5);
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const double expected = loss_of(dense, weights, dtype);
      for (const auto& options : {Upcycling{.experts = 6, .top_k = 2}, Upcycling{.experts = 4, .top_k = 1},
                                  Upcycling{.experts = 9, .top_k = 6, .expert_width = 4, .seed = 2},
                                  Upcycling{.experts = 6, .top_k = 6, .expert_width = 2}}) {
        INFO(fmt::format("{} experts, top {}, width {}", options.experts, options.top_k, options.expert_width));
        const double loss = loss_of(upcycled_config(dense, options), upcycled(dense, weights, options), dtype);
        CHECK(loss == Approx(expected).epsilon(dtype == at::kFloat ? kTolerance : 1e-12).margin(0));
      }
    }
  }
}

TEST_CASE("every range of an upcycled parameter is that range of the whole") {
  const auto dense = dense_model();
  const Upcycling options{.experts = 6, .top_k = 3, .expert_width = 4, .seed = 1, .noise = 0.25};
  const auto source = upcycled(dense, random_init(dense, 5), options);
  for (const auto& param : whole_params(upcycled_config(dense, options))) {
    INFO(param.name);
    const auto expected = whole(source, param.name, param.numel);
    for (const int64_t size : {1, 7, 97, 1000}) {
      const int64_t begin = param.numel / 3, count = std::min(size, param.numel - begin);
      auto part = at::empty({count}, at::kFloat);
      source(param.name, begin, part);
      CHECK(at::equal(part, expected.narrow(0, begin, count)));
    }
  }
}

TEST_CASE(
    "the router is random by its seed and equal for the pieces of a copy; noise replaces its share of the experts") {
  const auto dense = dense_model();
  const auto weights = random_init(dense, 5);
  Upcycling options{.experts = 6, .top_k = 3, .expert_width = 4};
  const auto router = [&] {
    return whole(upcycled(dense, weights, options), "blocks.0.moe.router.weight", 6 * dense.d_model).view({6, -1});
  };
  const auto rows = router();
  CHECK((at::equal(rows[0], rows[1]) && at::equal(rows[0], rows[2]) && at::equal(rows[3], rows[5])));
  CHECK_FALSE(at::equal(rows[0], rows[3]));
  options.seed = 1;
  CHECK_FALSE(at::equal(rows, router()));

  const auto down = [&] {
    return whole(upcycled(dense, weights, options), "blocks.0.moe.experts.down.weight", 6 * 4 * dense.d_model);
  };
  const auto clean = down();
  options.noise = 0.5;
  const double share = clean.ne(down()).to(at::kDouble).mean().item<double>();
  CHECK((share > 0.42 && share < 0.58));
}

TEST_CASE("what upcycling draws has the deviation that model.init gives it") {
  for (const auto init : {InitMethod::normal, InitMethod::mitchell, InitMethod::megatron}) {
    INFO(enum_name(init));
    auto dense = dense_model();
    dense.init = init;
    const Upcycling options{.experts = 6, .top_k = 3, .expert_width = 4, .seed = 3, .noise = 1};
    const auto made = upcycled_config(dense, options);
    const auto source = upcycled(dense, random_init(dense, 5), options), drawn = random_init(made, options.seed);
    for (const auto& param : whole_params(made))
      if (param.name.find(".experts.") != std::string::npos) {
        INFO(param.name);
        CHECK(at::equal(whole(source, param.name, param.numel), whole(drawn, param.name, param.numel)));
      }
  }
}

TEST_CASE("upcycling that does not divide is refused by its option") {
  const auto dense = dense_model();
  CHECK(refusal(dense, {.experts = 6, .top_k = 3, .expert_width = 4}) == "accepted");
  CHECK_THAT(refusal(dense, {.experts = 6, .top_k = 3, .expert_width = 5}), Catch::Contains("--expert-width: 5"));
  CHECK_THAT(refusal(dense, {.experts = 7, .top_k = 3, .expert_width = 4}), Catch::Contains("--experts: 7"));
  CHECK_THAT(refusal(dense, {.experts = 6, .top_k = 2, .expert_width = 4}), Catch::Contains("--top-k: 2"));
  CHECK_THAT(refusal(dense, {.experts = 2, .top_k = 3}), Catch::Contains("model.top_k"));
  CHECK_THAT(refusal(dense, {.experts = 2, .top_k = 1, .noise = 2.0}), Catch::Contains("--noise: 2"));
  CHECK_THAT(refusal(test::tiny_model(), {.experts = 6, .top_k = 2}), Catch::Contains("model.num_experts"));
}

TEST_CASE("a source with a variant whose first forward would not be the dense model's is refused by its key") {
  struct Variant {
    std::string key;
    std::function<void(ModelConfig&)> set;
  };
  const std::vector<Variant> variants{{"routing", [](auto& m) { m.routing = RoutingMethod::expert_choice; }},
                                      {"latent_dim", [](auto& m) { m.latent_dim = 8; }},
                                      {"share_experts", [](auto& m) { m.share_experts = true; }},
                                      {"layer_widths", [](auto& m) { m.layer_widths.assign(3, 12); }},
                                      {"num_shared_experts", [](auto& m) { m.num_shared_experts = 1; }},
                                      {"dense_layers", [](auto& m) { m.dense_layers = 1; }},
                                      {"moe_every", [](auto& m) { m.moe_every = 3; }},
                                      {"score_scale", [](auto& m) { m.score_scale = 2; }},
                                      {"gate", [](auto& m) { m.gate = Gate::constant; }},
                                      {"router_score", [](auto& m) {
                                         m.ffn = Ffn::moe;
                                         m.num_experts = m.top_k = 1;
                                         m.router_score = RouterScore::sigmoid;
                                       }}};
  CHECK(refusal(dense_model(), {.experts = 6, .top_k = 2}) == "accepted");
  for (const auto& [key, set] : variants) {
    auto model = dense_model();
    set(model);
    CHECK_THAT(refusal(model, {.experts = 6, .top_k = 2}), Catch::Contains("model." + key + ": the source has"));
  }
}

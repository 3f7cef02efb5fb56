// Latent experts: the vector of the successor's block, what is counted of them, and how they are initialized.
#include "model/flops.h"
#include "model/init.h"
#include "model/moe_layer.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/block_vectors.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

at::Tensor rms(const at::Tensor& x_ND, const at::Tensor& gain_D) {
  return x_ND * (x_ND.square().mean(-1, true) + 1e-6).rsqrt() * gain_D;
}

/// T 3, D 4, l 2, F 4, E 5, K 2, one shared expert.
ModelConfig vector_model() {
  ModelConfig model = tiny_model();
  model.d_model = model.num_heads = model.num_kv_heads = 4;
  model.num_layers = 1;
  model.num_experts = 5;
  model.top_k = 2;
  model.expert_width = 4;
  model.latent_dim = 2;
  model.num_shared_experts = 1;
  model.renormalize_scores = true;
  model.score_scale = 2;
  return model;
}

FlatParams vector_weights() {
  return {{"moe.router.weight", by_rule(0.4, {5, 4}, 0.8)},
          {"moe.latent_down.weight", by_rule(0.5, {2, 4}, 0.7)},
          {"moe.latent_up.weight", by_rule(0.6, {4, 2}, 0.7)},
          {"moe.experts.gate_up.weight", at::cat({by_rule(0.8, {5, 4, 2}, 0.9), by_rule(0.7, {5, 4, 2}, 0.9)}, 1)},
          {"moe.experts.down.weight", by_rule(0.9, {5, 2, 4}, 0.9)},
          {"moe.shared.gate_up.weight", at::cat({by_rule(1.1, {4, 4}, 0.6), by_rule(1.0, {4, 4}, 0.6)}, 0)},
          {"moe.shared.down.weight", by_rule(1.2, {4, 4}, 0.6)}};
}

bool near(const at::Tensor& ours, std::vector<double> expected) {
  return (ours.flatten() - at::tensor(expected, at::kDouble)).abs().max().item<double>() <= 1e-9;
}

}  // namespace

TEST_CASE("latent experts: the block of three tokens") {
  const auto model = vector_model();
  const auto world = make_single_communicator();
  MoeLayer layer(model, "moe", {model.expert_width},
                 {std::make_shared<RowExchange>(*world, at::kCPU, Overlap::yes), *world}, {});
  const auto weights = vector_weights();
  const auto state = layer.state();
  REQUIRE(state.params.size() == weights.size());
  for (const auto& param : state.params) {
    INFO(param.name);
    *param.slot = weights.at(param.name);
    REQUIRE(param.slot->sizes() == at::IntArrayRef(param.shape));
  }
  const auto h_ND = by_rule(0.1, {3, 4});
  const auto x_ND = rms(h_ND, 1 + by_rule(0.2, {4}, 0.1));
  const Batch batch{at::zeros({1, 3}, at::kLong), {}, 0};
  Routing routing;
  StageContext context{batch, Phase::eval, routing};
  const auto out = layer.forward(unnormed(x_ND), at::zeros_like(h_ND), context);
  CHECK(at::equal(routing.ids_NK, at::tensor({0, 1, 0, 1, 2, 1}, at::kInt).view({3, 2})));
  CHECK(near(out.y[0], {-1.7979104291, 2.2913518104, -2.0051089798, 1.7249280630}));
  CHECK(near(h_ND + rms(out.y, 1 + by_rule(0.3, {4}, 0.1)),
             {-0.0557164095, 1.8130654328, -1.5895504639, -0.0172647533, -0.5677104069, 1.8984047121, -1.6426859052,
              0.4349703370, -0.4321535525, -0.3468495696, -1.7584151340, 1.7345174296}));
  CHECK(near(out.stats->losses_2, {1.5647812415, 8.4802990347}));
}

TEST_CASE("parameters and FLOPs of latent experts, counted by hand") {
  auto model = tiny_model();  // three blocks, D 24, five experts of width 12, K 2
  model.latent_dim = 8;
  model.num_shared_experts = 1;
  model.dense_layers = 1;
  model.dense_width = 20;
  REQUIRE(validate(model, "model").empty());
  constexpr int64_t kOutside = 2 * 50 * 24 + 24, kAttention = 48 * 24 + 24 * 24 + 24 + 12 + 2 * 24;
  constexpr int64_t kDense = 3 * 24 * 20, kShared = 3 * 24 * 12, kRouter = 5 * 24, kExpert = 3 * 8 * 12;
  constexpr int64_t kProjections = 2 * 8 * 24, kEach = kRouter + kProjections + kShared;
  const auto counts = count_parameters(model);
  CHECK(counts.total == kOutside + 3 * kAttention + kDense + 2 * (kEach + 5 * kExpert));
  CHECK(counts.active == kOutside + 3 * kAttention + kDense + 2 * (kEach + 2 * kExpert));
  const auto flops = count_forward_flops(model, 16);
  CHECK(flops.ffn == 2. * (kDense + 2 * (kProjections + kShared + 2 * kExpert)));
  const double norms = 6. * (3 * (3 * 24 + 12) + 24);
  CHECK(3 * flops.total() + norms == Approx(count_flops(model, 16).causal).epsilon(1e-12));
}

TEST_CASE("of latent experts the up-projection is what is added to the residual") {
  auto model = tiny_model();
  model.init = InitMethod::megatron;
  const auto std_dev = [&](const std::string& name) {
    auto values = at::empty({8 * 24}, at::kDouble);
    random_init(model, 5)("blocks.0.moe." + name, 0, values);
    return values.std().item<double>();
  };
  const double of_output = model.init_std / std::sqrt(6.0);
  CHECK(std_dev("experts.down.weight") == Approx(of_output).epsilon(0.15));
  model.latent_dim = 8;
  CHECK(std_dev("experts.down.weight") == Approx(model.init_std).epsilon(0.15));
  CHECK(std_dev("latent_down.weight") == Approx(model.init_std).epsilon(0.15));
  CHECK(std_dev("latent_up.weight") == Approx(of_output).epsilon(0.15));
}

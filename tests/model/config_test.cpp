#include "model/config.h"

#include "model/flops.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;

struct BadConfig {
  std::string key;
  std::function<void(ModelConfig&)> spoil;
};

const std::vector<BadConfig>& bad_configs() {
  static const std::vector<BadConfig> table{
      {"vocab_size", [](auto& m) { m.vocab_size = 0; }},
      {"d_model", [](auto& m) { m.d_model = -8; }},
      {"d_model", [](auto& m) { m.d_model = 20; }},  // heads of width 5: rotary turns pairs
      {"d_model", [](auto& m) { m.d_model = 25; }},
      {"num_layers", [](auto& m) { m.num_layers = 0; }},
      {"num_heads", [](auto& m) { m.num_heads = 0; }},
      {"num_kv_heads", [](auto& m) { m.num_kv_heads = 0; }},
      {"num_kv_heads", [](auto& m) { m.num_kv_heads = 3; }},
      {"num_experts", [](auto& m) { m.num_experts = 0; }},
      {"top_k", [](auto& m) { m.top_k = 0; }},
      {"top_k", [](auto& m) { m.top_k = 6; }},
      {"expert_width", [](auto& m) { m.expert_width = 0; }},
      {"dense_width", [](auto& m) { m.dense_width = -1; }},
      {"clip_qkv", [](auto& m) { m.clip_qkv = 0.0; }},
      {"rope_theta", [](auto& m) { m.rope_theta = 0.0; }},
      {"norm_eps", [](auto& m) { m.norm_eps = 0.0; }},
      {"load_balancing_weight", [](auto& m) { m.load_balancing_weight = -0.01; }},
      {"router_z_weight", [](auto& m) { m.router_z_weight = -0.01; }},
      {"init_std", [](auto& m) { m.init_std = 0.0; }},
      {"init_cutoff", [](auto& m) { m.init_cutoff = -1.0; }},
      {"loss_chunk", [](auto& m) { m.loss_chunk = 0; }},
      {"norm_affine", [](auto& m) { m.norm_affine = NormAffine::weight_and_bias; }},  // of an RMSNorm
      {"embedding_scale", [](auto& m) { m.embedding_scale = 0; }},
      {"output_z_weight", [](auto& m) { m.output_z_weight = -1e-4; }},
      {"d_model", [](auto& m) { m.d_model = int64_t{4000000000}; }},
      {"num_layers", [](auto& m) { m.num_layers = 1000000000; }},
      {"dense_width", [](auto& m) { m.dense_width = int64_t{1} << 40; }},
      {"rope_theta", [](auto& m) { m.rope_theta = std::nan(""); }},
      {"dense_layers", [](auto& m) { m.dense_layers = -1; }},
      {"dense_layers", [](auto& m) { m.dense_layers = m.num_layers; }},  // no block is left for experts
      {"dense_layers", [](auto& m) { m.dense_layers = 2, m.moe_every = 2; }},
      {"moe_every", [](auto& m) { m.moe_every = 0; }},
      {"dense_layers", [](auto& m) { m.moe_every = m.num_layers + 1; }},
      {"num_shared_experts", [](auto& m) { m.num_shared_experts = -1; }},
      {"shared_expert_width", [](auto& m) { m.shared_expert_width = 8; }},
      {"shared_expert_gate", [](auto& m) { m.shared_expert_gate = true; }},
      {"score_scale", [](auto& m) { m.score_scale = 0; }},
      {"score_scale", [](auto& m) { m.score_scale = -1; }},
      {"balancing_bias_rate", [](auto& m) { m.balancing_bias_rate = 0.1; }},
      {"balancing_bias_rate", [](auto& m) { m.balancing_bias = ExpertBias::loss_free, m.balancing_bias_rate = 0; }},
      {"balancing_bias_rate", [](auto& m) { m.balancing_bias = ExpertBias::quantile, m.balancing_bias_rate = 1.5; }},
      {"balancing_bias", [](auto& m) { m.balancing_bias = ExpertBias::quantile, m.top_k = m.num_experts; }},
      {"gate", [](auto& m) { m.gate = Gate::constant, m.renormalize_scores = true; }},
      {"latent_dim", [](auto& m) { m.latent_dim = 25; }},  // of 24
      {"expert_choice_scope", [](auto& m) { m.expert_choice_scope = ChoiceScope::micro_batch; }},
      {"load_balancing_weight", [](auto& m) { m.routing = RoutingMethod::expert_choice; }},
      {"capacity_order", [](auto& m) { m.capacity_order = CapacityOrder::score; }},
      {"capacity_order",
       [](auto& m) {
         m.capacity_order = CapacityOrder::score;
         m.capacity_factor = 1.5;
         m.gate = Gate::constant;
       }},
      {"dense_width", [](auto& m) { m.latent_dim = 8, m.dense_layers = 1; }},
      {"dense_width", [](auto& m) { m.latent_dim = 8, m.ffn = Ffn::dense; }},
      {"attention_windows",
       [](auto& m) {
         m.attention_windows = {4, -1};
       }},
      {"attention_windows", [](auto& m) { m.attention_windows = {int64_t{1} << 40}; }},
      {"attention_windows",
       [](auto& m) {
         m.attention_windows = {4, 0, 4, 0};  // of three blocks
       }},
      {"position_embeddings", [](auto& m) { m.position_embeddings.resize(4); }},
  };
  return table;
}

}  // namespace

TEST_CASE("a valid model config has no problems") {
  CHECK(validate(ModelConfig{}, "model").empty());
  CHECK(validate(test::tiny_model(), "model").empty());
}

TEST_CASE("each bad value of a model is one problem that starts with its key") {
  for (const auto& [key, spoil] : bad_configs()) {
    auto model = test::tiny_model();
    spoil(model);
    const auto problems = validate(model, "model");
    INFO(key);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith("model." + key + ":"));
  }
}

TEST_CASE("what has no place where experts choose is refused by its key") {
  struct Bad {
    std::string key;
    std::function<void(ModelConfig&)> spoil;
  };
  const std::vector<Bad> all{
      {"load_balancing_granularity", [](auto& m) { m.load_balancing_granularity = BalanceGranularity::global; }},
      {"balancing_bias", [](auto& m) { m.balancing_bias = ExpertBias::loss_free; }},
      {"router_score", [](auto& m) { m.router_score = RouterScore::sigmoid; }},
      {"renormalize_scores", [](auto& m) { m.renormalize_scores = true; }},
      {"gate", [](auto& m) { m.gate = Gate::constant; }},
      {"capacity_factor", [](auto& m) { m.capacity_factor = 1; }}};
  auto model = test::tiny_model();
  model.routing = RoutingMethod::expert_choice;
  model.load_balancing_weight = 0;
  CHECK(validate(model, "model").empty());
  for (const auto& [key, spoil] : all) {
    INFO(key);
    auto bad = model;
    spoil(bad);
    const auto problems = validate(bad, "model");
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith("model." + key + ":"));
  }
}

TEST_CASE("a list of widths that does not fit the model is refused by key") {
  const std::vector<BadConfig> all{
      {"layer_widths",
       [](auto& m) {
         m.layer_widths = {12, 12};  // of three blocks
       }},
      {"layer_widths",
       [](auto& m) {
         m.layer_widths = {12, 0, 12};
       }},
      {"layer_widths",
       [](auto& m) {
         m.dense_layers = 1;
         m.layer_widths = {1 << 18, 1 << 18, 12};  // too wide for experts, not for a dense feed-forward
       }},
      {"dense_width",
       [](auto& m) {
         m.dense_layers = 1;
         m.layer_widths = {12, 8, 12};
         m.dense_width = 12;
       }},
      {"shared_expert_width", [](auto& m) {
         m.layer_widths = {12, 8, 12};
         m.num_shared_experts = 1;
       }}};
  for (const auto& [key, spoil] : all) {
    auto model = test::tiny_model();
    spoil(model);
    const auto problems = validate(model, "model");
    INFO(key);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith("model." + key + ":"));
  }
}

TEST_CASE("experts are shared by two blocks or more, of one width") {
  const std::vector<std::function<void(ModelConfig&)>> bad{
      [](auto& m) { m.dense_layers = 2; }, [](auto& m) { m.moe_every = 3; }, [](auto& m) { m.num_layers = 1; },
      [](auto& m) {
        m.layer_widths = {12, 12, 13};
      }};
  for (const auto& spoil : bad) {
    auto model = test::tiny_model();
    model.share_experts = true;
    CHECK(validate(model, "model").empty());
    spoil(model);
    const auto problems = validate(model, "model");
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith("model.share_experts:"));
    model.ffn = Ffn::dense;
    CHECK(validate(model, "model").empty());
  }
  auto model = test::tiny_model();
  model.share_experts = true;
  model.dense_layers = 1;
  model.layer_widths = {50, 12, 12};
  CHECK(validate(model, "model").empty());
}

TEST_CASE("problems of one config are listed together") {
  auto model = test::tiny_model();
  model.num_kv_heads = 3;
  model.top_k = model.num_experts + 1;
  CHECK(validate(model, "model").size() == 2);
  model.init_std = model.router_z_weight = -1;  // ranges come first: what spans fields may divide by one
  CHECK(validate(model, "model").size() == 2);
}

TEST_CASE("parameters and FLOPs of OLMoE-1B-7B and its dense twin") {
  ModelConfig model;
  const auto moe = count_parameters(model);
  CHECK(moe.total == 6'919'161'856);
  CHECK(moe.active == 1'282'017'280);
  CHECK(moe.multiplied == moe.active - 103'022'592);
  const auto flops = count_flops(model, 4096);
  CHECK(flops.causal == Approx(7.88e9).epsilon(0.001));
  CHECK(flops.full_attention == Approx(8.68e9).epsilon(0.001));

  model.ffn = Ffn::dense;
  const auto dense = count_parameters(model);
  CHECK(dense.total == 1'279'920'128);
  CHECK(dense.active == dense.total);
}

TEST_CASE("parameters of a tiny model, counted by hand") {
  const auto model = test::tiny_model();
  constexpr int64_t kOutside = 2 * 50 * 24 + 24;                        // embedding, head; final norm
  constexpr int64_t kAttention = 48 * 24 + 24 * 24 + 24 + 12 + 2 * 24;  // qkv, output; QK-norms; two norms
  constexpr int64_t kRouter = 5 * 24, kExpert = 3 * 24 * 12;
  const auto counts = count_parameters(model);
  CHECK(counts.total == kOutside + 3 * (kAttention + kRouter + 5 * kExpert));
  CHECK(counts.active == kOutside + 3 * (kAttention + kRouter + 2 * kExpert));
  // 6 FLOPs of each active parameter but the embedding; 12 L D S of attention, half of it causal
  const auto flops = count_flops(model, 10);
  const double products = 6.0 * static_cast<double>(counts.active - 50 * 24);
  CHECK(flops.full_attention == products + 12.0 * 3 * 24 * 10);
  CHECK(flops.causal == products + 6.0 * 3 * 24 * 10);
}

TEST_CASE("parameters of the variants of a block, counted by hand") {
  const auto plain = test::tiny_model();
  const auto more = [&](const std::function<void(ModelConfig&)>& change) {
    auto model = plain;
    change(model);
    const auto counts = count_parameters(model), before = count_parameters(plain);
    CHECK(counts.active - before.active == counts.total - before.total);
    return counts.total - before.total;
  };
  // Three blocks of width 24; 4 query heads and 2 key heads of width 6; seven norms of rows.
  CHECK(more([](auto& m) { m.qk_norm = QkNorm::none; }) == -3 * (24 + 12));
  CHECK(more([](auto& m) { m.qk_norm = QkNorm::non_affine; }) == -3 * (24 + 12));
  CHECK(more([](auto& m) { m.qk_norm = QkNorm::per_head; }) == 0);
  CHECK(more([](auto& m) { m.qk_norm = QkNorm::per_head_shared; }) == 3 * (6 + 6 - 24 - 12));
  CHECK(more([](auto& m) { m.norm = NormKind::layer; }) == 0);
  CHECK(more([](auto& m) { m.norm_affine = NormAffine::none; }) == -7 * 24);
  CHECK(more([](auto& m) { m.norm = NormKind::layer, m.norm_affine = NormAffine::weight_and_bias; }) == 7 * 24);
  CHECK(more([](auto& m) { m.norm_position = NormPosition::post; }) == 0);
  CHECK(more([](auto& m) { m.norm_position = NormPosition::both; }) == 6 * 24);
  CHECK(more([](auto& m) { m.attention_gate = true; }) == 3 * 24 * 24);
  CHECK(more([](auto& m) { m.embedding_norm = true; }) == 24);
  CHECK(more([](auto& m) { m.embedding_scale = 5; }) == 0);
  CHECK(more([](auto& m) { m.tie_embeddings = true; }) == -50 * 24);
  auto tied = plain;
  tied.tie_embeddings = true;  // the head computes as before
  CHECK(count_flops(tied, 10).causal == count_flops(plain, 10).causal);
}

TEST_CASE("the blocks of a model follow from its fields") {
  auto model = test::tiny_model();
  const auto moe = model.blocks();
  REQUIRE(std::ssize(moe) == model.num_layers);
  CHECK(model.has_experts());
  CHECK(model.num_moe_layers() == model.num_layers);
  for (const auto& block : moe) {
    CHECK(block.feed_forward.has_experts());
    CHECK(block.feed_forward.num_experts == model.num_experts);
    CHECK(block.feed_forward.top_k == model.top_k);
    CHECK(block.feed_forward.hidden == model.expert_width);
    CHECK(block.attention.num_heads * block.attention.head_dim == model.d_model);
    CHECK(block.attention.num_kv_heads == model.num_kv_heads);
  }
  model.ffn = Ffn::dense;
  model.dense_width = 48;
  CHECK_FALSE(model.has_experts());
  for (const auto& block : model.blocks()) {
    CHECK_FALSE(block.feed_forward.has_experts());
    CHECK(block.feed_forward.top_k * block.feed_forward.hidden == 48);
  }
}

TEST_CASE("a list of widths is that of the experts of each block, or of its dense feed-forward") {
  auto model = test::tiny_model();  // D 24, five experts, K 2
  model.layer_widths = {30, 7, 18};
  CHECK(model.expert_widths() == std::vector<int64_t>{7, 18, 30});
  constexpr int64_t kOutside = 2 * 50 * 24 + 24, kAttention = 48 * 24 + 24 * 24 + 24 + 12 + 2 * 24;
  constexpr int64_t kRouter = 5 * 24, kUnit = 3 * 24;  // of one more hidden value
  const auto moe = count_parameters(model);
  CHECK(moe.total == kOutside + 3 * (kAttention + kRouter) + 5 * kUnit * (30 + 7 + 18));
  CHECK(moe.active == kOutside + 3 * (kAttention + kRouter) + 2 * kUnit * (30 + 7 + 18));
  CHECK(count_forward_flops(model, 16).ffn == 2. * 2 * kUnit * (30 + 7 + 18));

  model.dense_layers = 1;
  model.latent_dim = 8;  // no dense_width need be given
  CHECK(validate(model, "model").empty());
  CHECK(model.expert_widths() == std::vector<int64_t>{7, 18});
  CHECK(model.blocks()[0].feed_forward.hidden == 30);
  CHECK_FALSE(model.blocks()[0].feed_forward.has_experts());

  model.latent_dim = model.dense_layers = 0;
  model.ffn = Ffn::dense;
  model.expert_width = 1 << 17;  // without effect
  CHECK(validate(model, "model").empty());
  CHECK(model.expert_widths().empty());
  CHECK(count_parameters(model).total == kOutside + 3 * kAttention + kUnit * (30 + 7 + 18));
}

TEST_CASE("experts that blocks share are counted once, and computed with in each block") {
  auto model = test::tiny_model();  // three blocks, five experts, K 2
  const auto of_blocks = count_parameters(model);
  const auto flops = count_flops(model, 10);
  model.share_experts = true;
  constexpr int64_t kExpert = 3 * 24 * 12;
  const auto shared = count_parameters(model);
  CHECK(of_blocks.total - shared.total == 2 * 5 * kExpert);
  CHECK(of_blocks.active - shared.active == (6 - 5) * kExpert);  // three choices of two reach all five
  CHECK(shared.multiplied == of_blocks.multiplied);
  CHECK(count_flops(model, 10).causal == flops.causal);
  model.top_k = 1;
  model.dense_layers = 1;
  const auto twice = count_parameters(model);
  CHECK(twice.total - twice.active == 3 * kExpert);

  const auto params = list_params(model);
  std::vector<std::string> experts;
  for (size_t stage = 0; stage < params.size(); ++stage)
    for (const auto& param : params[stage]) {
      if (param.axis != Axis::expert_shard) continue;
      experts.push_back(param.name);
      CHECK(stage == 2);
      CHECK(param.later_users == std::vector<size_t>{3});
    }
  CHECK(experts == std::vector<std::string>{"blocks.1.moe.experts.gate_up.weight", "blocks.1.moe.experts.down.weight"});
}

TEST_CASE("every parameter has the role that its place in the model gives it") {
  std::map<std::string, ParamRole> roles;
  for (const auto& params : list_params(test::tiny_model()))
    for (const auto& param : params) {
      roles[param.name] = param.role;
      CHECK((param.role == ParamRole::norm) == (param.global_shape.size() == 1));
    }
  CHECK(roles.at("embedding.weight") == ParamRole::embedding);
  CHECK(roles.at("blocks.0.moe.router.weight") == ParamRole::router);
  CHECK(roles.at("blocks.0.attention.q_norm.weight") == ParamRole::norm);
  CHECK(roles.at("blocks.1.moe.experts.gate_up.weight") == ParamRole::matrix);
  CHECK(roles.at("blocks.1.moe.experts.down.weight") == ParamRole::output);
  CHECK(roles.at("blocks.2.attention.output.weight") == ParamRole::output);
  CHECK(roles.at("head.weight") == ParamRole::head);
}

// Which class holds a model, and what is refused of models that none holds.
#include "trainer/conversion/hf_form.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "support/catch.h"
#include "support/hf_models.h"
#include "support/model_fixtures.h"
#include "support/temp_folder.h"
#include "trainer/config/model_differences.h"
#include "trainer/conversion/hf_config.h"

namespace {

using namespace olmoe;

std::string refusal(const ModelConfig& config) {
  try {
    hf_form(config, random_init(config, 1));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("the dense twin is an OlmoeForCausalLM of one expert, or without QK-norm a LlamaForCausalLM") {
  auto dense = test::tiny_model();
  dense.ffn = Ffn::dense;
  dense.dense_width = 20;
  const auto weights = random_init(dense, 3);
  const auto one = hf_form(dense, weights);
  CHECK(one.hf->architecture == "OlmoeForCausalLM");
  CHECK((one.config.num_experts == 1 && one.config.top_k == 1 && one.config.expert_width == 20));
  auto gate_up = at::empty({2 * 20 * dense.d_model}), same = at::empty_like(gate_up),
       router = at::ones({dense.d_model});
  one.weights("blocks.1.moe.experts.gate_up.weight", 0, gate_up);
  weights("blocks.1.ffn.gate_up.weight", 0, same);
  one.weights("blocks.1.moe.router.weight", 0, router);
  CHECK(at::equal(gate_up, same));
  CHECK(router.count_nonzero().item<int64_t>() == 0);

  dense.qk_norm = QkNorm::none;
  CHECK(hf_form(dense, weights).hf->architecture == "LlamaForCausalLM");
  for (const auto position : {NormPosition::pre, NormPosition::post}) {
    auto other = test::tiny_model();
    other.ffn = Ffn::dense;
    other.norm_position = position;
    if (position == NormPosition::pre) other.qk_norm = QkNorm::per_head_shared;
    const auto form = hf_form(other, random_init(other, 3));
    CHECK(form.hf->architecture == (position == NormPosition::pre ? "Qwen3MoeForCausalLM" : "FlexOlmoForCausalLM"));
    CHECK(form.config.num_experts == 1);
  }
}

TEST_CASE("what no class computes is refused by its key") {
  const auto changed = [](auto change) {
    auto model = test::tiny_model();
    change(model);
    return refusal(model);
  };
  CHECK(changed([](auto&) {}) == "accepted");
  CHECK_THAT(changed([](auto& model) { model.qk_norm = QkNorm::none; }), Catch::Contains("model.qk_norm: none"));
  const std::vector<std::pair<std::string, std::function<void(ModelConfig&)>>> table{
      {"model.qk_norm: non_affine", [](auto& model) { model.qk_norm = QkNorm::non_affine; }},
      {"model.qk_norm: per_head:", [](auto& model) { model.qk_norm = QkNorm::per_head; }},
      {"model.norm: layer", [](auto& model) { model.norm = NormKind::layer; }},
      {"model.norm_affine: none", [](auto& model) { model.norm_affine = NormAffine::none; }},
      {"model.norm_position: both", [](auto& model) { model.norm_position = NormPosition::both; }},
      {"model.attention_gate: true", [](auto& model) { model.attention_gate = true; }},
      {"model.embedding_scale: 8", [](auto& model) { model.embedding_scale = 8; }},
      {"model.embedding_norm: true", [](auto& model) { model.embedding_norm = true; }},
      {"model.layer_widths: [12, 8, 12]",
       [](auto& model) {
         model.layer_widths = {12, 8, 12};
       }},
  };
  for (const auto& [named, change] : table)
    for (const auto ffn : {Ffn::moe, Ffn::dense}) {
      INFO(named << ", " << enum_name(ffn));
      CHECK_THAT(changed([&](auto& model) { model.ffn = ffn, change(model); }), Catch::Contains(named));
    }
  CHECK(changed([](auto& model) { model.output_z_weight = 1e-4, model.init = InitMethod::mitchell; }) == "accepted");
  CHECK_THAT(changed([](auto& model) { model.capacity_factor = 1.5; }), Catch::Contains("model.capacity_factor: 1.5"));
  CHECK_THAT(changed([](auto& model) {
               model.ffn = Ffn::dense;
               model.qk_norm = QkNorm::none;
               model.clip_qkv = 8.0;
             }),
             Catch::Contains("model.clip_qkv: 8"));
}

TEST_CASE(
    "every routing variant that OlmoeForCausalLM does not have is refused by its key, but not of the dense twin") {
  struct Variant {
    std::string problem;
    std::function<void(ModelConfig&)> set;
  };
  const std::vector<Variant> variants{
      {"model.router_score: sigmoid", [](auto& m) { m.router_score = RouterScore::sigmoid; }},
      {"model.score_scale: 2.5", [](auto& m) { m.score_scale = 2.5; }},
      {"model.gate: constant", [](auto& m) { m.gate = Gate::constant; }},
      {"model.balancing_bias: loss_free", [](auto& m) { m.balancing_bias = ExpertBias::loss_free; }},
      {"model.balancing_bias: quantile", [](auto& m) { m.balancing_bias = ExpertBias::quantile; }},
      {"model.latent_dim: 8", [](auto& m) { m.latent_dim = 8; }},
      {"model.routing: expert_choice",
       [](auto& m) {
         m.routing = RoutingMethod::expert_choice;
         m.load_balancing_weight = 0;
       }},
      {"model.num_shared_experts: 2", [](auto& m) { m.num_shared_experts = 2; }},
      {"model.dense_layers: 1", [](auto& m) { m.dense_layers = 1; }},
      {"model.moe_every: 3", [](auto& m) { m.moe_every = 3; }}};
  for (const auto& [problem, set] : variants) {
    auto model = test::tiny_model();
    set(model);
    REQUIRE(validate(model, "model").empty());
    CHECK_THAT(refusal(model), Catch::Contains(problem + ":"));
    model.ffn = Ffn::dense;  // has none of it
    CHECK(refusal(model) == "accepted");
  }
  auto shared = test::tiny_model();  // each block has copies
  shared.share_experts = true;
  CHECK_FALSE(hf_form(shared, random_init(shared, 1)).config.share_experts);
  shared.ffn = Ffn::dense;
  CHECK_FALSE(hf_form(shared, random_init(shared, 1)).config.share_experts);
  auto losses = test::tiny_model();  // training alone
  losses.load_balancing_granularity = BalanceGranularity::step;
  CHECK(refusal(losses) == "accepted");
}

TEST_CASE("what experts take in another way is refused by its key of every class") {
  const std::vector<std::pair<std::string, std::function<void(ModelConfig&)>>> variants{
      {"model.layer_widths: [8, ", [](auto& m) { m.layer_widths.assign(static_cast<size_t>(m.num_layers), 8); }},
      {"model.latent_dim: 8: no class", [](auto& m) { m.latent_dim = 8; }},
      {"model.routing: expert_choice: no class", [](auto& m) { m.routing = RoutingMethod::expert_choice; }},
      {"model.capacity_factor: 1.5: no class", [](auto& m) { m.capacity_factor = 1.5; }},
      {"model.capacity_order: score: no class", [](auto& m) {
         m.capacity_factor = 1.5;
         m.capacity_order = CapacityOrder::score;
       }}};
  for (const auto& hf : hf_classes()) {
    if (!hf.experts) continue;
    auto model = test::tiny_model();
    test::hf_models().at(std::string(hf.architecture))(model);
    REQUIRE(unheld_by(hf, model).empty());
    for (const auto& [problem, set] : variants) {
      INFO(hf.architecture << ", " << problem);
      auto changed = model;
      set(changed);
      const auto lines = unheld_by(hf, changed);
      CHECK(std::ranges::count_if(lines, [&](const auto& line) { return line.starts_with(problem); }) == 1);
      CHECK_THAT(refusal(changed), Catch::Contains(problem));
    }
  }
}

TEST_CASE("every class is found by what it computes, and read back as that model") {
  for (const auto& [architecture, set] : test::hf_models()) {
    INFO(architecture);
    const TempFolder folder;
    auto model = test::tiny_model();
    set(model);
    REQUIRE(validate(model, "model").empty());
    const auto form = hf_form(model, random_init(model, 1));
    CHECK(form.hf->architecture == architecture);
    folder.add("config.json", hf_config_json(form, 64, "float32", {}).dump());
    CHECK(model_differences(read_hf_config(folder / "."), form.config) == std::vector<std::string>{});
    CHECK((form.config.has_experts() == model.has_experts() || form.config.num_experts == 1));
  }
}

TEST_CASE("a class is not taken for what it has in another way, and the refusal is of the closest one") {
  struct Case {
    std::string_view of;
    std::function<void(ModelConfig&)> set;
    std::string problem;
  };
  const std::vector<Case> cases{
      {"FlexOlmoForCausalLM", [](auto& m) { m.clip_qkv = 8; },
       "norm_position: post: OlmoeForCausalLM has norms before"},
      {"FlexOlmoForCausalLM", [](auto& m) { m.dense_layers = 1; }, "dense_layers: 1: FlexOlmoForCausalLM"},
      {"Qwen3MoeForCausalLM", [](auto& m) { m.score_scale = 2; }, "score_scale: 2: Qwen3MoeForCausalLM"},
      {"Qwen3MoeForCausalLM",
       [](auto& m) {
         m.attention_windows = {4, 0};
       },
       "[4, 0]: Qwen3MoeForCausalLM has one"},
      {"Qwen3MoeForCausalLM", [](auto& m) { m.balancing_bias = ExpertBias::loss_free; },
       "balancing_bias: loss_free: Q"},
      {"Qwen2MoeForCausalLM", [](auto& m) { m.shared_expert_gate = false; }, "shared_expert_gate: false: Qwen2Moe"},
      {"Qwen2MoeForCausalLM", [](auto& m) { m.attention_windows = {4}; }, "[4]: Qwen2MoeForCausalLM sees all keys"},
      {"Dots1ForCausalLM",
       [](auto& m) {
         m.attention_windows = {4, 5};
       },
       "[4, 5]: Dots1ForCausalLM has windows of one"},
      {"Dots1ForCausalLM", [](auto& m) { m.balancing_bias = ExpertBias::quantile; }, "balancing_bias: quantile: Dots1"},
      {"Dots1ForCausalLM", [](auto& m) { m.shared_expert_width = 7; }, "shared_expert_width: 7: Dots1ForCausalLM"},
      {"Dots1ForCausalLM", [](auto& m) { m.shared_expert_gate = true; }, "shared_expert_gate: true: Dots1ForCausalLM"},
      {"Dots1ForCausalLM", [](auto& m) { m.num_experts = 1, m.top_k = 1; }, "num_experts: 1: Dots1ForCausalLM"},
      {"Dots1ForCausalLM", [](auto& m) { m.dense_layers = 0, m.moe_every = 2; }, "moe_every: 2: Dots1ForCausalLM"}};
  const auto held = test::hf_models();
  for (const auto& [of, set, problem] : cases) {
    auto model = test::tiny_model();
    held.at(std::string(of))(model);
    set(model);
    REQUIRE(validate(model, "model").empty());
    CHECK_THAT(refusal(model), Catch::Contains("model." + problem) || Catch::Contains("attention_windows: " + problem));
  }
}

TEST_CASE("every attention variant that no class has is refused by its key, with experts and without") {
  struct Variant {
    std::string problem;  ///< empty: the same function as OLMoE's
    std::function<void(ModelConfig&)> set;
  };
  const std::vector<Variant> variants{
      {"model.attention_windows: [4, 0]:",
       [](auto& m) {
         m.attention_windows = {4, 0};
       }},
      {"model.position_embeddings: none:", [](auto& m) { m.position_embeddings = {PositionEmbedding::none}; }},
      {"model.scalable_softmax: true:", [](auto& m) { m.scalable_softmax = true; }},
      {"", [](auto& m) { m.attention_windows = {0}; }},
      {"", [](auto& m) { m.position_embeddings = {PositionEmbedding::rotary}; }}};
  for (const auto& [problem, set] : variants)
    for (const auto ffn : {Ffn::moe, Ffn::dense}) {
      auto model = test::tiny_model();
      model.ffn = ffn;
      set(model);
      REQUIRE(validate(model, "model").empty());
      CHECK_THAT(refusal(model), problem.empty() ? Catch::Contains("accepted") : Catch::Contains(problem));
    }
}

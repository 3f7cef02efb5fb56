// config.json of Hugging Face folders: what it gives, and what is refused. That the models agree is tests/golden's
// matter.
#include "trainer/conversion/hf_config.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "support/catch.h"
#include "support/hf_configs.h"
#include "support/temp_folder.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

ModelConfig read(const json& config, const ModelConfig& defaults = {}) {
  TempFolder folder;
  folder.add("config.json", config.dump());
  return read_hf_config(folder / ".", defaults);
}

/// What is said of a config with a JSON merge patch applied: null takes a key away.
std::string problem_of(json config, const json& change) {
  config.merge_patch(change);
  try {
    read(config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("config.json gives the model; what it does not say stays") {
  ModelConfig defaults;
  defaults.router_z_weight = 0.125;
  defaults.loss_chunk = 3;
  defaults.norm_position = NormPosition::post;  // of another model
  defaults.output_z_weight = 0.25;
  defaults.latent_dim = 8;
  defaults.routing = RoutingMethod::expert_choice;
  defaults.expert_choice_scope = ChoiceScope::micro_batch;
  defaults.capacity_factor = 1.5;
  defaults.capacity_order = CapacityOrder::score;
  const auto moe = read(olmoe_json(), defaults);
  CHECK(moe.norm_position == NormPosition::pre);
  CHECK(moe.output_z_weight == 0.25);
  CHECK((moe.latent_dim == 0 && !moe.experts_choose() && moe.expert_choice_scope == ChoiceScope::sequence));
  CHECK((moe.capacity_factor == 1.5 && moe.capacity_order == CapacityOrder::score));
  CHECK_FALSE(moe.tie_embeddings);
  CHECK(moe.ffn == Ffn::moe);
  CHECK(moe.vocab_size == 64);
  CHECK(moe.d_model == 32);
  CHECK(moe.num_layers == 2);
  CHECK(moe.num_heads == 4);
  CHECK(moe.num_kv_heads == 2);
  CHECK(moe.norm_eps == 1e-6);
  CHECK(moe.expert_width == 16);
  CHECK(moe.num_experts == 8);
  CHECK(moe.top_k == 3);
  CHECK(moe.renormalize_scores);
  CHECK(moe.clip_qkv == 4.0);
  CHECK(moe.rope_theta == 5000.0);
  CHECK(moe.qk_norm == QkNorm::full);
  CHECK(moe.router_z_weight == 0.125);
  CHECK(moe.loss_chunk == 3);

  const auto dense = read(llama_json());
  CHECK(dense.ffn == Ffn::dense);
  CHECK(dense.dense_hidden() == 16);
  CHECK(dense.qk_norm == QkNorm::none);
  CHECK_FALSE(dense.clip_qkv.has_value());
}

TEST_CASE("a config.json that says what we do not compute is refused by key") {
  struct Case {
    json change;
    std::string named;
  };
  const std::vector<Case> both{
      {{{"attention_bias", true}}, "attention_bias"},
      {{{"hidden_act", "gelu"}}, "hidden_act"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}, "linear"},
      {{{"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}}}, "yarn"},
      {{{"head_dim", 16}}, "head_dim"},
      {{{"model_type", "mistral"}}, "mistral"},
      {{{"model_type", nullptr}}, "model_type is missing"},
      {{{"hidden_size", nullptr}}, "hidden_size is missing"},
      {{{"hidden_size", "32"}}, "hidden_size has the wrong type"},
      {{{"hidden_size", 36}}, "d_model"},  // heads of width 9
      {{{"num_attention_heads", 0}}, "num_heads"},
      {{{"rope_parameters", {{"rope_theta", "much"}}}}, "rope_parameters"},
      {{{"rope_parameters", 3}}, "rope_parameters"},
  };
  for (const auto& [change, named] : both) {
    INFO(change.dump());
    CHECK_THAT(problem_of(olmoe_json(), change), Catch::Contains("config.json") && Catch::Contains(named));
    CHECK_THAT(problem_of(llama_json(), change), Catch::Contains("config.json") && Catch::Contains(named));
  }
  CHECK_THAT(problem_of(llama_json(), {{"mlp_bias", true}}), Catch::Contains("mlp_bias"));
  CHECK_THAT(problem_of(olmoe_json(), {{"num_experts_per_tok", 9}}), Catch::Contains("top_k"));
  CHECK(problem_of(olmoe_json(), json::object()) == "accepted");
}

TEST_CASE("the configs of the classes with shared experts, windows and dense blocks give the model") {
  const auto qwen2 = read(qwen2_json());
  CHECK((qwen2.qk_norm == QkNorm::none && qwen2.shared_expert_gate && qwen2.shared_hidden() == 24));
  CHECK((qwen2.expert_width == 16 && qwen2.num_moe_layers() == 2));
  CHECK(qwen2.rope_theta == 5000.0);

  auto flex = olmoe_json();
  flex.merge_patch({{"model_type", "flex_olmo"}, {"rope_theta", nullptr}});
  CHECK(read(flex).rope_theta == 500000.0);
  CHECK(read(flex).norm_position == NormPosition::post);

  auto qwen3 = qwen3_json();
  qwen3.merge_patch(
      {{"num_experts", nullptr}, {"num_local_experts", 6}, {"use_sliding_window", true}, {"sliding_window", 3}});
  CHECK((read(qwen3).num_experts == 6 && read(qwen3).qk_norm == QkNorm::per_head_shared));
  CHECK((read(qwen3).attention_window(0) == 3 && read(qwen3).attention_window(1) == 3));

  auto dots1 = dots1_json();
  const auto full = read(dots1);
  CHECK((full.router_score == RouterScore::sigmoid && full.balancing_bias == ExpertBias::loss_free));
  CHECK((full.score_scale == 2.5 && full.num_shared_experts == 2 && full.dense_layers == 1 && full.dense_width == 40));
  CHECK_FALSE(full.has_windows());
  dots1.merge_patch({{"sliding_window", 5}, {"max_window_layers", 1}});  // as before layer_types
  CHECK((read(dots1).attention_window(0) == 0 && read(dots1).attention_window(1) == 5));
  dots1["layer_types"] = {"sliding_attention", "full_attention"};
  CHECK((read(dots1).attention_window(0) == 5 && read(dots1).attention_window(1) == 0));
}

TEST_CASE("blocks without experts are read from every way to list them, or refused") {
  const auto moe_layers = [](int64_t step, const std::vector<int64_t>& dense) {
    auto config = qwen3_json();
    config.merge_patch({{"num_hidden_layers", 6}, {"decoder_sparse_step", step}});
    config["mlp_only_layers"] = dense;
    std::vector<int64_t> out;
    try {
      const auto model = read(config);
      for (int64_t l = 0; l < 6; ++l)
        if (model.is_moe_layer(l)) out.push_back(l);
      CHECK(model.dense_width == 40);
    } catch (const ConfigError& error) {
      CHECK_THAT(error.what(), Catch::Contains("mlp_only_layers") || Catch::Contains("dense_layers"));
    }
    return out;
  };
  using Layers = std::vector<int64_t>;
  CHECK(moe_layers(1, {}) == Layers{0, 1, 2, 3, 4, 5});
  CHECK(moe_layers(2, {}) == Layers{1, 3, 5});
  CHECK(moe_layers(1, {0, 1}) == Layers{2, 3, 4, 5});
  CHECK(moe_layers(2, {1}) == Layers{3, 5});
  CHECK(moe_layers(1, {0, 1, 3, 5}) == Layers{2, 4});
  CHECK(moe_layers(1, {5}).empty());
  CHECK(moe_layers(1, {0, 1, 2, 3, 4, 5}).empty());
  CHECK(moe_layers(7, {}).empty());
}

TEST_CASE("what the classes may have and we do not is refused by key") {
  const std::vector<std::tuple<json, json, std::string>> cases{
      {qwen2_json(), {{"qkv_bias", nullptr}}, "qkv_bias"},  // it is on
      {qwen2_json(), {{"qkv_bias", true}}, "qkv_bias"},
      {qwen2_json(), {{"use_sliding_window", true}}, "use_sliding_window"},
      {qwen2_json(), {{"layer_types", {"full_attention", "sliding_attention"}}}, "sliding_attention"},
      {qwen2_json(), {{"shared_expert_intermediate_size", 0}}, "shared_expert_intermediate_size"},
      {qwen2_json(), {{"num_key_value_heads", nullptr}}, "num_key_value_heads is missing"},
      {qwen3_json(), {{"head_dim", 16}}, "head_dim"},
      {qwen3_json(), {{"decoder_sparse_step", 0}}, "decoder_sparse_step"},
      {qwen3_json(), {{"mlp_only_layers", {0.5}}}, "mlp_only_layers has the wrong type"},
      {qwen3_json(), {{"num_hidden_layers", 1'000'000'000'000}}, "num_layers"},
      {dots1_json(), {{"n_group", 2}}, "n_group"},
      {dots1_json(), {{"max_window_layers", 1}}, "sliding_window is missing"},  // it would be 4096
      {dots1_json(), {{"n_shared_experts", 0}}, "n_shared_experts"},
      {dots1_json(), {{"layer_types", {"full_attention"}}}, "layer_types"},
      {dots1_json(), {{"layer_types", {"full_attention", "chunked_attention"}}}, "chunked_attention"},
      {dots1_json(), {{"layer_types", {"full_attention", "sliding_attention"}}}, "sliding_window is missing"}};
  for (const auto& [config, change, named] : cases) CHECK_THAT(problem_of(config, change), Catch::Contains(named));
}

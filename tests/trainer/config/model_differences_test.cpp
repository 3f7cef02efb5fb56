// Which models are the same.
#include "trainer/config/model_differences.h"

#include <functional>

#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;
using Change = std::function<void(ModelConfig&)>;

std::vector<std::string> differences(const Change& a, const Change& b) {
  auto left = test::tiny_model(), right = test::tiny_model();
  a(left), b(right);
  REQUIRE(validate(left, "left").empty());
  REQUIRE(validate(right, "right").empty());
  return model_differences(left, right);
}

}  // namespace

TEST_CASE("models that compute the same differ in nothing, however it is said") {
  const Change plain = [](auto&) {};
  const std::vector<std::pair<Change, Change>> same{
      {plain, [](auto& m) { m.init_std = 0.1, m.loss_chunk = 3, m.load_balancing_weight = 0; }},
      {plain, [](auto& m) { m.capacity_factor = 1.5, m.capacity_order = CapacityOrder::score; }},
      {plain, [](auto& m) { m.attention_windows = {0}, m.position_embeddings = {PositionEmbedding::rotary}; }},
      {plain, [](auto& m) { m.dense_width = 7; }},  // no block is dense
      {[](auto& m) {
         m.attention_windows = {4, 0};
       },
       [](auto& m) {
         m.attention_windows = {4, 0, 4};
       }},
      {[](auto& m) { m.dense_layers = 2; }, [](auto& m) { m.moe_every = 3, m.dense_width = 24; }},
      {plain, [](auto& m) { m.layer_widths.assign(3, 12), m.expert_width = 9; }},
      {[](auto& m) { m.dense_layers = 1, m.dense_width = 30; },
       [](auto& m) {
         m.dense_layers = 1;
         m.layer_widths = {30, 12, 12};
       }},
      {[](auto& m) { m.num_shared_experts = 2; },
       [](auto& m) { m.num_shared_experts = 1, m.shared_expert_width = 24; }},
      {[](auto& m) { m.ffn = Ffn::dense, m.dense_width = 24; },
       [](auto& m) { m.ffn = Ffn::dense, m.num_experts = 9, m.score_scale = 2, m.dense_layers = 1; }},
      {[](auto& m) { m.ffn = Ffn::dense, m.dense_width = 24; },
       [](auto& m) {
         m.ffn = Ffn::dense, m.dense_width = 24, m.latent_dim = 8, m.share_experts = true;
         m.routing = RoutingMethod::expert_choice, m.load_balancing_weight = 0;
         m.expert_choice_scope = ChoiceScope::micro_batch;
       }}};
  for (size_t i = 0; i < same.size(); ++i) {
    INFO(i);
    CHECK(differences(same[i].first, same[i].second) == std::vector<std::string>{});
  }
}

TEST_CASE("what models compute in another way is named, first here, then there") {
  using Lines = std::vector<std::string>;
  const Change plain = [](auto&) {};
  CHECK(differences(plain, [](auto& m) { m.top_k = 3; }) == Lines{"model.top_k: 2 -> 3"});
  CHECK(differences([](auto& m) { m.moe_every = 3; }, [](auto& m) { m.dense_layers = 1; }) ==
        Lines{"model.dense_layers: 0 -> 1", "model.moe_every: 3 -> 1"});
  const std::vector<std::tuple<std::string, Change, Change>> others{
      {"model.attention_windows: ",
       [](auto& m) {
         m.attention_windows = {4, 0};
       },
       [](auto& m) {
         m.attention_windows = {0, 4};
       }},
      {"model.position_embeddings: ", plain, [](auto& m) { m.position_embeddings = {PositionEmbedding::none}; }},
      {"model.latent_dim: ", plain, [](auto& m) { m.latent_dim = 8; }},
      {"model.routing: ", plain,
       [](auto& m) {
         m.routing = RoutingMethod::expert_choice;
         m.load_balancing_weight = 0;
       }},
      {"model.layer_widths: ", plain,
       [](auto& m) {
         m.layer_widths = {12, 12, 13};
       }},
      {"model.layer_widths: ",
       [](auto& m) {
         m.ffn = Ffn::dense;
         m.layer_widths = {12, 12, 13};
       },
       [](auto& m) {
         m.ffn = Ffn::dense;
         m.layer_widths = {12, 13, 12};
       }},
      {"model.share_experts: ", plain, [](auto& m) { m.share_experts = true; }},
      {"model.score_scale: ", plain, [](auto& m) { m.score_scale = 2; }},
      {"model.dense_width: ", [](auto& m) { m.dense_layers = 1; },
       [](auto& m) { m.dense_layers = 1, m.dense_width = 5; }}};
  for (const auto& [named, a, b] : others) {
    INFO(named);
    const auto found = differences(a, b);
    REQUIRE(found.size() == 1);
    CHECK_THAT(found.front(), Catch::StartsWith(named));
  }
  const auto shared = differences([](auto& m) { m.num_shared_experts = 1; },
                                  [](auto& m) { m.num_shared_experts = 1, m.shared_expert_width = 5; });
  REQUIRE(shared.size() == 1);
  CHECK_THAT(shared.front(), Catch::StartsWith("model.shared_expert_width: "));
}

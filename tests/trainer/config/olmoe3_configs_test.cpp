// Configs of variants: OLMoE's successor, the shape of the large one, which the small one shares (parameters, and a run
// of the small one: tests/e2e/test_command_line.py), and the tiny model with other experts.
#include "model/flops.h"
#include "support/catch.h"
#include "trainer/config/config.h"

namespace {

using namespace olmoe;

ModelConfig model_of(const std::string& name, const std::vector<std::string>& overrides = {}) {
  return load_config(fmt::format("{}/configs/{}.yaml", OLMOE_SOURCE_DIR, name), overrides).model;
}

}  // namespace

TEST_CASE("OLMoE3-dev Tiny-64E has a dense first block, heads of 128 values and an embedding of 100,352 rows") {
  const auto model = model_of("olmoe3-dev-tiny-64e");
  const auto counts = count_parameters(model);
  CHECK(counts.active - counts.multiplied == 100'352 * 2'048);
  CHECK(model.head_dim() == 128);
  CHECK(model.num_moe_layers() == 15);
  CHECK_FALSE(model.is_moe_layer(0));
}

TEST_CASE("the OLMoE3-dev config for CPUs has the keys of the large one and its proportions") {
  auto large = model_of("olmoe3-dev-tiny-64e");
  const auto small = model_of("olmoe3-dev-tiny-64e-cpu");
  for (const auto& model : {large, small}) {
    CHECK(model.expert_width == model.d_model);
    CHECK(model.dense_width == (model.top_k + 1) * model.expert_width);
    CHECK(model.num_heads == 4 * model.num_kv_heads);
    CHECK(model.embedding_scale == Approx(std::sqrt(static_cast<double>(model.d_model))).epsilon(1e-15));
    CHECK(model.load_balancing_weight == Approx(0.01 * static_cast<double>(model.num_moe_layers())));
    CHECK(model.router_z_weight == Approx(2e-4 * static_cast<double>(model.num_moe_layers())));
  }
  // What is left when sizes are the same.
  large.vocab_size = small.vocab_size, large.d_model = small.d_model, large.num_layers = small.num_layers;
  large.num_heads = small.num_heads, large.num_kv_heads = small.num_kv_heads, large.num_experts = small.num_experts;
  large.expert_width = small.expert_width, large.dense_width = small.dense_width;
  large.embedding_scale = small.embedding_scale, large.init_std = small.init_std;
  large.load_balancing_weight = small.load_balancing_weight, large.router_z_weight = small.router_z_weight;
  CHECK(differing_fields(large, small).empty());
}

TEST_CASE(
    "the tiny model with layer-shared experts, or a width for each block, has the parameters that docs/variants.md "
    "says") {
  const auto plain = count_parameters(model_of("tiny-cpu"));
  const auto widths = count_parameters(model_of("tiny-cpu", {"model.layer_widths=[96, 112, 144, 160]"}));
  const auto shared = count_parameters(model_of("tiny-cpu", {"model.share_experts=true"}));
  CHECK(plain.total == 7'495'936);
  CHECK(widths.total == plain.total);
  CHECK(widths.active == plain.active);
  CHECK(plain.total - shared.total == 3 * 16 * 3 * 256 * 128);  // the experts of three of four blocks
  CHECK(shared.total == 2'777'344);
}

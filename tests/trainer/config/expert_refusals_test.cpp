// Variants of experts that other keys leave no kernel for, each refused by its key.
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/fixed_keys.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

Config gpu_run(const std::string& folder) {
  auto config = tiny_run(folder);
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.model.d_model = config.model.expert_width = 256;
  config.model.num_heads = config.model.num_kv_heads = 4;
  return config;
}

}  // namespace

TEST_CASE("a step whose experts choose their tokens is not captured") {
  const TempFolder folder;
  auto config = gpu_run(folder / "run");
  config.train.cuda_graph = true;
  CHECK(validate(config).empty());
  config.model.routing = RoutingMethod::expert_choice;
  config.model.load_balancing_weight = 0;
  const auto problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::StartsWith("train.cuda_graph: not with model.routing=expert_choice"));
}

TEST_CASE("the width of latent experts decides which kernels can compute them") {
  const TempFolder folder;
  auto config = gpu_run(folder / "run");
  config.train.expert_kernels = kernels::ExpertKernels::fused;
  config.model.latent_dim = kernels::kFusedWidths;
  CHECK(validate(config).empty());
  config.model.latent_dim = kernels::kFusedWidths / 2;
  const auto problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::StartsWith("train.expert_kernels: fused needs model.latent_dim and"));
}

TEST_CASE("every width of a list is one that a GPU's kernels can compute, of dense blocks any") {
  const TempFolder folder;
  auto config = gpu_run(folder / "run");
  config.model.num_layers = 3;
  config.model.dense_layers = 1;
  config.model.layer_widths = {100, 256, 512};
  CHECK(validate(config).empty());
  config.model.layer_widths = {100, 256, 260};
  auto problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::StartsWith("model.layer_widths: 260 must be a multiple of 8"));
  config.train.expert_kernels = kernels::ExpertKernels::fused;
  config.model.layer_widths = {100, kernels::kFusedWidths, kernels::kFusedWidths / 2};
  problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::StartsWith("train.expert_kernels: fused needs model.d_model and model.layer_widths"));
}

TEST_CASE("a list of widths of the wrong length is refused once, whatever else reads it") {
  const TempFolder folder;
  auto config = gpu_run(folder / "run");
  config.train.expert_kernels = kernels::ExpertKernels::fused;
  config.model.layer_widths = {kernels::kFusedWidths};
  REQUIRE(config.model.num_layers > 1);
  const auto problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::StartsWith("model.layer_widths: 1 numbers, but num_layers"));
}

TEST_CASE("a run that resumes keeps its experts, their capacity and who chooses") {
  for (const auto* key : {"model.share_experts", "model.layer_widths", "model.latent_dim", "model.capacity_factor",
                          "model.capacity_order", "model.routing", "model.expert_choice_scope"})
    CHECK(is_fixed_key(key));
}

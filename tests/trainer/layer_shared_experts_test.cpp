// Layer-shared experts: what they compute and how their gradient adds up, in layouts of ranks and in checkpoints. The
// oracle, finite differences, recompute and captured steps: routing_variants_test.cpp, device_step_test.cpp.
#include <set>

#include "support/layout_ladder.h"
#include "support/oracle_check.h"
#include "trainer/config/parameter_groups.h"
#include "trainer/conversion/saved_model.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

ModelConfig shared_model() {
  auto model = strong_losses();
  model.share_experts = true;
  return model;
}

/// The name of the parameter that a block computes with, of experts the first block's.
std::string shared_name(const std::string& name) {
  const auto at = name.find(".moe.experts.");
  return at == std::string::npos ? name : "blocks.0" + name.substr(at);
}

Config shared_run(Config config) {
  config.model.num_experts = 4;
  config.model.share_experts = true;
  config.model.balancing_bias = ExpertBias::loss_free;
  config.model.load_balancing_weight = 0.5;
  return config;
}

}  // namespace

TEST_CASE("blocks that share experts are blocks with equal ones, whose gradients are summed") {
  const auto dtype = GENERATE(at::kDouble, at::kFloat, at::kBFloat16);
  const auto model = shared_model();
  auto of_blocks = model;
  of_blocks.share_experts = false;
  OneRank ours(model, dtype), copies(of_blocks, dtype);
  const auto weights = uneven_weights(model);
  fill_weights(copies.runner.units(), [&](const std::string& name, int64_t begin, at::Tensor out) {
    weights(shared_name(name), begin, std::move(out));
  });
  ours.pass(oracle_batch(model));
  copies.pass(oracle_batch(model));
  CHECK(at::equal(ours.runner.totals().losses_3, copies.runner.totals().losses_3));
  CHECK(at::equal(ours.runner.totals().counts_LE, copies.runner.totals().counts_LE));  // routers are each block's own
  FlatParams sums;
  for (const auto& [name, grad] : whole_params(copies.runner, &ShardedUnit::grad)) {
    auto& sum = sums[shared_name(name)];
    sum = sum.defined() ? sum + grad : grad;
  }
  const auto grads = whole_params(ours.runner, &ShardedUnit::grad);
  REQUIRE(grads.size() == sums.size());
  const double tolerance = dtype == at::kDouble ? 1e-12 : 1e-5;  // sums of three in fp32, in another order
  for (const auto& [name, sum] : sums) {
    INFO(name);
    const auto& grad = grads.at(name);
    const double gap = (grad - sum).abs().max().item<double>(), scale = sum.abs().max().item<double>();
    if (name.find(".experts.") == std::string::npos) CHECK(gap == 0);
    CHECK(gap <= tolerance * scale);
  }
}

TEST_CASE("in float64 every layout of threads gives what one rank does, for shared experts", "[layouts]") {
  const int world_size = GENERATE(2, 4);
  const auto kind = GENERATE(OptimizerKind::adamw, OptimizerKind::muon);
  const auto recompute = kind == OptimizerKind::muon ? Recompute::none : Recompute::full;
  CAPTURE(world_size, enum_name(kind));
  TempFolder folder;
  auto config = ladder_run(folder / "single", world_size);
  config.train.steps = 3;
  config.optimizer.kind = kind;
  config.model.share_experts = true;
  config.model.tie_embeddings = true;
  const auto reference = run_single(config);
  config.train.recompute = recompute;
  for (const auto& layout : layouts_of(world_size)) {
    INFO(describe(layout));
    const TempFolder of_layout;
    config.run.folder = of_layout / "run";
    config.parallel.expert_chunks = layout.expert;
    CHECK(error_on_threads(config, layout, reference) <= 1e-12);
  }
}

TEST_CASE("a run with shared experts resumes bit for bit, and in another layout within 1e-12") {
  const auto dtype = GENERATE(ComputeDtype::float64, ComputeDtype::bfloat16);
  const int64_t zero_stage = GENERATE(1, 2, 3);
  TempFolder folder;
  const auto saved = [&](const std::string& name) {
    auto config = shared_run(saving_run(folder / name));
    config.train.compute_dtype = dtype;
    config.parallel.zero_stage = zero_stage;
    return config;
  };
  const auto whole = saved("whole");
  run_to_the_end(2, whole);
  auto cut = saved("cut");
  cut.train.steps = 3;
  run_to_the_end(2, cut);
  cut.train.steps = 6;
  run_to_the_end(2, cut);
  CHECK(lines_of(cut.run.folder) == lines_of(whole.run.folder));
  check_same_shards(cut, whole, 6, 2);
  if (dtype != ComputeDtype::float64) return;

  auto moved = saved("moved");
  moved.train.steps = 3;
  moved.parallel.expert = 2;
  run_to_the_end(4, moved);
  moved.train.steps = 6;
  moved.parallel = {};
  CHECK(metrics_error(run_single(moved).metrics, metrics_of(whole.run.folder)) <= 1e-12);
}

TEST_CASE("a checkpoint has shared experts once, and routers and biases of each block") {
  TempFolder folder;
  auto config = shared_run(saving_run(folder / "run"));
  config.train.steps = 1;
  run_to_the_end(2, config);
  std::set<std::string> names;
  for (const auto& tensor : open_model(step_folder(config, 1), UnknownKeys::refused).tensors)
    if (tensor.kind == "weight" || tensor.kind == "buffer") names.insert(tensor.name);
  CHECK(names.contains("blocks.0.moe.experts.gate_up.weight"));
  CHECK(names.contains("blocks.0.moe.experts.down.weight"));
  for (const char* block : {"blocks.1", "blocks.2"}) {
    CHECK_FALSE(names.contains(fmt::format("{}.moe.experts.gate_up.weight", block)));
    CHECK_FALSE(names.contains(fmt::format("{}.moe.experts.down.weight", block)));
    CHECK(names.contains(fmt::format("{}.moe.router.weight", block)));
    CHECK(names.contains(fmt::format("{}.moe.router.balancing_bias", block)));
  }
}

TEST_CASE("shared experts are in groups of the optimizer by the name of the first block") {
  TempFolder folder;
  auto config = shared_run(tiny_run(folder / "run"));
  config.optimizer.groups = {{.match = "blocks.1.moe.experts.*", .frozen = true}};
  const auto problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::Contains("blocks.1.moe.experts.*"));
  config.optimizer.groups = {{.match = "blocks.0.moe.experts.*", .frozen = true}};
  CHECK(validate(config).empty());
  const auto weights = random_init(config.model, static_cast<uint64_t>(config.run.seed));
  const auto state = run_single(config).state;
  for (const char* name : {"blocks.0.moe.experts.gate_up.weight", "blocks.0.moe.experts.down.weight"}) {
    auto initial = at::empty_like(state.at("weight").at(name));
    weights(name, 0, initial);
    CHECK(at::equal(state.at("weight").at(name), initial));
    CHECK_FALSE(state.at("exp_avg").contains(name));
  }
  CHECK(state.at("exp_avg").contains("blocks.1.moe.router.weight"));
}

// A sharded run equals the run of one rank: what layout_ladder_test.cpp leaves out, recompute, the dense model,
// evaluation, and the loss curve of a longer run.
#include "support/catch.h"
#include "support/layout_ladder.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

const std::vector<Layout> kLayouts{{1, 2, 1, 3}, {2, 1, 1, 2}, {1, 3, 1, 2}, {2, 2, 1, 3},
                                   {1, 2, 2, 3}, {1, 4, 2, 2}, {2, 2, 2, 1}};

}  // namespace

TEST_CASE("in float64 a sharded run equals one rank, also with checkpointing, chunks and the dense model") {
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  TempFolder single;
  auto config = tiny_run(single / "run");
  config.model.ffn = ffn;
  config.model.num_experts = 6;
  config.evaluation.paths = {single.add("held_out.npy", token_bytes(90, 7))};  // 7 sequences
  config.evaluation.every_steps = 2;
  if (ffn == Ffn::moe) config.model.capacity_factor = GENERATE(std::optional<double>(), std::optional<double>(0.8));
  if (config.model.capacity_factor)
    config.model.capacity_order = GENERATE(CapacityOrder::position, CapacityOrder::score);
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 3 + 2);
  REQUIRE(reference.metrics.back().contains("eval/held_out/loss"));
  CHECK((reference.metrics.front().at("dropped_assignments") > 0) == config.model.capacity_factor.has_value());

  for (const auto& layout : kLayouts)
    for (auto recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
      if (ffn == Ffn::dense && layout.expert > 1) continue;  // refused: mesh_shape_test.cpp
      INFO(fmt::format("{}, recompute {}", describe(layout), enum_name(recompute)));
      TempFolder folder;
      config.run.folder = folder / "run";
      config.train.recompute = recompute;
      config.parallel.expert_chunks = layout.expert;
      CHECK(error_on_threads(config, layout, reference) <= 1e-12);
    }
}

TEST_CASE("the fp32 loss curve of 2 and 4 ranks follows that of one for 100 steps") {
  constexpr double kTolerance = 1e-3;
  TempFolder folder;
  auto config = tiny_run(folder / "single");
  config.model.init_std = 0.05;
  config.model.num_experts = 6;
  config.train.compute_dtype = ComputeDtype::float32;
  config.train.steps = 100;
  config.optimizer.lr = 1e-2;
  config.schedule.warmup_steps = 10;
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 100);
  const double first = reference.metrics.front()["loss"], last = reference.metrics.back()["loss"];
  CHECK(last < first - 0.5);  // it learns

  for (const auto& layout : {Layout{1, 2, 1, 3}, Layout{1, 2, 2, 3}, Layout{1, 4, 1, 2}, Layout{2, 2, 2, 1}}) {
    config.run.folder = folder / describe(layout);
    config.parallel = {.replicate = layout.replicate, .expert = layout.expert, .zero_stage = layout.zero_stage};
    run_ranks(static_cast<int>(layout.replicate * layout.shard),
              [&](Communicator& world) { Trainer(resolve_run(config, world.size()), world).run(); });
    const auto metrics = metrics_of(config.run.folder);
    REQUIRE(metrics.size() == 100);
    for (size_t i = 0; i < metrics.size(); ++i) {
      const double expected = reference.metrics[i]["loss"];
      INFO(fmt::format("{}, step {}", describe(layout), i + 1));
      CHECK(metrics[i]["loss"].get<double>() == Approx(expected).epsilon(kTolerance).margin(0));
    }
  }
}

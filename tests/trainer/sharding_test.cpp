// A sharded run equals the run of one rank: thread ranks, every layout, ZeRO 2 and 3, with and
// without recompute.
#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

struct Layout {
  int replicate, shard;
};
const std::vector<Layout> kLayouts{{1, 1}, {1, 2}, {2, 1}, {1, 3}, {3, 1}, {1, 4}, {2, 2}, {4, 1}};

/// Largest relative errors over all ranks of a run against the run of one rank. Gradients are seen
/// in their moving average, which holds those of every step: AdamW clears them.
struct Errors {
  double weights = 0, mean_grads = 0;
  int ranks = 0;
};

Errors run_sharded(const Config& config, int world_size, const FinishedRun& reference) {
  std::vector<Errors> of_rank(static_cast<size_t>(world_size));
  run_ranks(world_size, [&](Communicator& world) {
    ENSURE(world.size() == world_size, "{} ranks run, not {}", world.size(), world_size);
    Trainer trainer(config, world);
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
    of_rank[static_cast<size_t>(world.rank())] = {slice_error(trainer, "weight", reference),
                                                  slice_error(trainer, "exp_avg", reference), 1};
  });
  Errors worst;
  for (const auto& errors : of_rank)
    worst = {std::max(worst.weights, errors.weights), std::max(worst.mean_grads, errors.mean_grads),
             worst.ranks + errors.ranks};
  return worst;
}

/// Largest relative error of any number of any line.
double metrics_error(const std::vector<nlohmann::json>& ours,
                     const std::vector<nlohmann::json>& reference) {
  REQUIRE(ours.size() == reference.size());
  double worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(ours[i].size() == reference[i].size());
    for (const auto& [key, value] : reference[i].items()) {
      const double expected = value.get<double>(),
                   gap = std::abs(ours[i].at(key).get<double>() - expected);
      worst = std::max(worst, gap / std::max(std::abs(expected), 1e-300));
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("in float64 every layout gives losses, gradients and weights of the run of one rank") {
  constexpr double kTolerance = 1e-12;
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  TempFolder single;
  auto config = tiny_run(single / "run");
  config.model.ffn = ffn;
  config.evaluation.paths = {single.add("held_out.npy", token_bytes(90, 7))};  // 7 sequences
  config.evaluation.every_steps = 2;
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 3 + 2);
  REQUIRE(reference.metrics.back().contains("eval/held_out/loss"));

  for (const auto& [replicate, shard] : kLayouts)
    for (int64_t zero_stage : {2, 3})
      for (auto recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
        INFO(fmt::format("replicate {} x shard {}, ZeRO-{}, recompute {}", replicate, shard,
                         zero_stage, enum_name(recompute)));
        TempFolder folder;
        config.run.folder = folder / "run";
        config.parallel.replicate = replicate;
        config.parallel.shard = shard;
        config.parallel.zero_stage = zero_stage;
        config.train.recompute = recompute;
        const int world_size = replicate * shard;
        const auto errors = run_sharded(config, world_size, reference);
        CHECK(errors.ranks == world_size);
        CHECK(errors.weights <= kTolerance);
        CHECK(errors.mean_grads <= kTolerance);
        CHECK(metrics_error(metrics_of(config.run.folder), reference.metrics) <= kTolerance);
      }
}

TEST_CASE("the fp32 loss curve of 2 and 4 ranks follows that of one for 100 steps") {
  constexpr double kTolerance = 1e-3;
  TempFolder folder;
  auto config = tiny_run(folder / "single");
  config.model.init_std = 0.05;
  config.train.compute_dtype = ComputeDtype::float32;
  config.train.steps = 100;
  config.optimizer.lr = 1e-2;
  config.schedule.warmup_steps = 10;
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 100);
  const double first = reference.metrics.front()["loss"], last = reference.metrics.back()["loss"];
  CHECK(last < first - 0.5);  // it learns

  for (int world_size : {2, 4}) {
    config.run.folder = folder / fmt::format("ranks{}", world_size);
    run_ranks(world_size, [&](Communicator& world) { Trainer(config, world).run(); });
    const auto metrics = metrics_of(config.run.folder);
    REQUIRE(metrics.size() == 100);
    for (size_t i = 0; i < metrics.size(); ++i) {
      const double expected = reference.metrics[i]["loss"];
      INFO(fmt::format("{} ranks, step {}", world_size, i + 1));
      CHECK(metrics[i]["loss"].get<double>() == Approx(expected).epsilon(kTolerance).margin(0));
    }
  }
}

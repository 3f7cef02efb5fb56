// The ladder's rungs of threads: every layout of up to 8 ranks computes what one rank computes.
#include "support/layout_ladder.h"
#include "support/catch.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

void check_all(Config config, int world_size, const FinishedRun& reference) {
  for (const auto& layout : layouts_of(world_size)) {
    TempFolder folder;
    config.run.folder = folder / "run";
    INFO(describe(layout));
    CHECK(error_on_threads(config, layout, reference) <= 1e-12);
  }
}

}  // namespace

TEST_CASE("there are 114 layouts of up to 8 ranks") {
  size_t layouts = 0;
  for (int world = 1; world <= 8; ++world) layouts += layouts_of(world).size();
  CHECK(layouts == 114);
}

TEST_CASE("in float64 every layout of threads gives the losses, gradients and weights of one rank", "[layouts]") {
  const int world_size = GENERATE(range(1, 9));
  TempFolder folder;
  const auto config = ladder_run(folder / "single", world_size);
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 5);
  check_all(config, world_size, reference);
}

TEST_CASE("with balance over the global batch every layout gives what one rank does with all of it", "[layouts]") {
  const int world_size = GENERATE(range(1, 9));
  TempFolder folder;
  auto config = ladder_run(folder / "single", world_size);
  config.train.steps = 2;
  const auto reference = run_single(global_balance(config, 1));
  const auto sequences = run_single([&] {
    auto other = config;
    other.run.folder = folder / "micro_batch";
    other.train.micro_batch_size = other.train.global_batch_size;
    other.model.load_balancing_weight = 0.5;
    return other;
  }());
  CHECK(metrics_error(sequences.metrics, reference.metrics) <= 1e-12);  // of one rank and micro-batch they are the same
  check_all(global_balance(config, world_size), world_size, reference);
}

TEST_CASE("with balance within each sequence every layout gives what one rank does") {
  const int world_size = GENERATE(3, 4, 6);
  TempFolder folder;
  auto config = ladder_run(folder / "single", world_size);
  config.train.steps = 2;
  config.model.load_balancing_granularity = BalanceGranularity::sequence;
  config.model.load_balancing_weight = 0.5;
  check_all(config, world_size, run_single(config));
}

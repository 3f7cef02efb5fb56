// The ladder's rungs of threads: every layout of up to 8 ranks computes what one rank computes.
#include "support/catch.h"
#include "support/layout_ladder.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Errors of all layouts of a world, in order.
std::vector<double> errors_of(const Config& config, int world_size, const FinishedRun& reference) {
  std::vector<double> errors;
  for (const auto& layout : layouts_of(world_size)) {
    TempFolder folder;
    auto run = config;
    run.run.folder = folder / "run";
    double error = -1;
    run_ranks(world_size, [&](Communicator& world) {
      const double of_all = layout_error(run, layout, world, reference);
      if (world.rank() == 0) error = of_all;
    });
    errors.push_back(error);
  }
  return errors;
}

void check(const std::vector<double>& errors, int world_size, double tolerance) {
  const auto layouts = layouts_of(world_size);
  REQUIRE(errors.size() == layouts.size());
  for (size_t i = 0; i < layouts.size(); ++i) {
    INFO(describe(layouts[i]));
    CHECK(errors[i] >= 0);
    CHECK(errors[i] <= tolerance);
  }
}

}  // namespace

TEST_CASE("there are 114 layouts of up to 8 ranks") {
  size_t layouts = 0;
  for (int world = 1; world <= 8; ++world) layouts += layouts_of(world).size();
  CHECK(layouts == 114);
}

TEST_CASE("in float64 every layout of threads gives the losses, gradients and weights of one rank") {
  const int world_size = GENERATE(range(1, 9));
  TempFolder folder;
  const auto config = ladder_run(folder / "single", world_size);
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 5);
  check(errors_of(config, world_size, reference), world_size, 1e-12);
}

TEST_CASE("with balance over the global batch every layout gives what one rank does with all of it") {
  const int world_size = GENERATE(2, 4, 6);
  TempFolder folder;
  const auto config = ladder_run(folder / "single", world_size);
  const auto reference = run_single(global_balance(config, 1));
  const auto sequences = run_single([&] {
    auto other = config;
    other.run.folder = folder / "micro_batch";
    other.train.micro_batch_size = other.train.global_batch_size;
    other.model.load_balancing_weight = 0.5;
    return other;
  }());
  CHECK(metrics_error(sequences.metrics, reference.metrics) <= 1e-12);  // of one rank and micro-batch they are the same
  check(errors_of(global_balance(config, world_size), world_size, reference), world_size, 1e-12);
}

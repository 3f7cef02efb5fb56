// The ladder's rungs of threads: every layout of up to 8 ranks computes what one rank computes.
#include "support/layout_ladder.h"

#include <array>
#include <set>

#include "support/catch.h"
#include "trainer/config/mesh_shape.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Whether a run of this config starts on so many ranks.
bool accepts(const Config& config, int world) {
  try {
    mesh_shape(config, world);
    return true;
  } catch (const ConfigError&) {
    return false;
  }
}

}  // namespace

TEST_CASE("the layouts of up to 8 ranks, 114, are those that a config may have, each once") {
  std::set<std::array<int64_t, 5>> listed, valid;
  for (int world = 1; world <= 8; ++world) {
    const TempFolder folder;
    const auto run = ladder_run(folder / "run", world);
    for (const auto& [replicate, shard, expert, zero_stage] : layouts_of(world))
      CHECK(listed.insert({world, replicate, shard, expert, zero_stage}).second);
    for (int64_t replicate = 1; replicate <= world; ++replicate)
      for (int64_t shard = 1; shard <= world; ++shard)
        for (int64_t expert = 1; expert <= world; ++expert)
          for (int64_t zero_stage = 1; zero_stage <= 3; ++zero_stage) {
            auto config = run;
            apply({replicate, shard, expert, zero_stage}, config);
            if (validate(config).empty() && accepts(config, world))
              valid.insert({world, replicate, shard, expert, zero_stage});
          }
  }
  CHECK((listed == valid));
  CHECK(listed.size() == 114);
}

TEST_CASE("in float64 every layout of threads gives the losses, gradients and weights of one rank", "[layouts]") {
  const int world_size = GENERATE(range(1, 9));
  TempFolder folder;
  const auto config = ladder_run(folder / "single", world_size);
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 5);
  check_layouts(config, world_size, reference);
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
  check_layouts(global_balance(config, world_size), world_size, reference);
}

TEST_CASE("with balance within each sequence every layout gives what one rank does") {
  const int world_size = GENERATE(3, 4, 6);
  TempFolder folder;
  auto config = ladder_run(folder / "single", world_size);
  config.train.steps = 2;
  config.model.load_balancing_granularity = BalanceGranularity::sequence;
  config.model.load_balancing_weight = 0.5;
  check_layouts(config, world_size, run_single(config));
}

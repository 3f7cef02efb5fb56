// Runs whose first steps have smaller batches (train.batch_size_warmup).
#include "support/catch.h"
#include "support/layout_ladder.h"
#include "trainer/config/lr_schedule.h"
#include "trainer/preflight/start_notices.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Steps of 1, 1, 3, 3, 5 and 5 sequences.
Config warmup_run(Config config) {
  config.train.steps = 6;
  config.train.batch_size_warmup = {{2, 1}, {4, 3}};
  config.schedule.decay_steps = 20;
  config.schedule.batch_lr_power = 0.5;
  return config;
}

}  // namespace

TEST_CASE("tokens and learning rates of a run with a batch-size warm-up are those counted by hand") {
  TempFolder folder;
  const auto config = warmup_run(saving_run(folder / "run"));
  const auto lines = run_single(config).metrics;
  REQUIRE(lines.size() == 6);
  const std::vector<int64_t> sequences{1, 2, 5, 8, 13, 18};
  const std::vector<double> factors{std::sqrt(0.2), std::sqrt(0.2), std::sqrt(0.6), std::sqrt(0.6), 1, 1};
  for (size_t i = 0; i < 6; ++i) {
    const auto step = static_cast<int64_t>(i) + 1;
    CHECK(lines[i]["tokens"] == 12 * sequences[i]);
    const double whole = learning_rate(config.schedule, config.optimizer.lr, 6, step);
    CHECK(lines[i]["lr"].get<double>() == Approx(whole * factors[i]).epsilon(1e-15));
    const auto manifest = Manifest::read(step_folder(config, step));
    CHECK(manifest.sequences == sequences[i]);
    CHECK(manifest.tokens == 12 * sequences[i]);
  }
}

TEST_CASE("the steps of a phase are those of a run with its batch, bit for bit") {
  TempFolder folder;
  auto phased = saving_run(folder / "phased"), small = saving_run(folder / "small");
  phased.train.steps = small.train.steps = 3;
  phased.train.batch_size_warmup = {{3, 2}};
  small.train.global_batch_size = 2;
  const auto ours = run_single(phased), expected = run_single(small);
  CHECK(ours.metrics == expected.metrics);
  for (const auto& [kind, params] : expected.state)
    for (const auto& [name, values] : params) CHECK(at::equal(values, ours.state.at(kind).at(name)));
}

TEST_CASE("a batch-size warm-up is the same on 4 ranks in every layout as on one") {
  TempFolder single;
  const auto config = warmup_run(ladder_run(single / "run", 4));
  const auto reference = run_single(config);
  check_layouts(config, 4, reference);
}

TEST_CASE("a run resumes in and after its batch-size warm-up bit for bit, and only with the same one") {
  const int64_t cut_at = GENERATE(1, 2, 3, 5);
  TempFolder folder;
  const auto whole = warmup_run(saving_run(folder / "whole"));
  run_to_the_end(2, whole);
  auto cut = warmup_run(saving_run(folder / "cut"));
  cut.train.steps = cut_at;
  run_to_the_end(2, cut);
  cut.train.steps = 6;
  auto changed = cut;
  changed.train.batch_size_warmup.pop_back();
  CHECK_THROWS_WITH(run_to_the_end(2, changed), Catch::Contains("train.batch_size_warmup: [{until_step: 2"));
  run_to_the_end(2, cut);
  CHECK(lines_of(cut.run.folder) == lines_of(whole.run.folder));
  check_same_shards(cut, whole, 6, 2);
}

TEST_CASE("idle ranks of a phase and a warm-up that outlasts the run are said before the first step") {
  auto config = warmup_run(tiny_run("unused"));
  config.train.micro_batch_size = 1;
  config.train.global_batch_size = 6;
  config.schedule.decay_steps = 0;
  const auto notices_on = [&](int ranks) {
    StartState state;
    state.threads = state.ranks_here = 1;
    return start_notices(config, ranks, state).notices;
  };
  CHECK(notices_on(1).empty());
  const auto idle = notices_on(3);
  REQUIRE(idle.size() == 1);
  CHECK(idle[0] ==
        "train.batch_size_warmup[0].global_batch_size: 1 sequence in micro-batches of 1 (train.micro_batch_size) are "
        "work for 1 of 3 ranks: 2 idle");
  config.train.steps = 4;
  const auto short_run = notices_on(1);
  REQUIRE(short_run.size() == 1);
  CHECK(short_run[0] ==
        "train.batch_size_warmup: its last phase ends at step 4, the run at train.steps = 4: no step has "
        "train.global_batch_size = 6 sequences");
}

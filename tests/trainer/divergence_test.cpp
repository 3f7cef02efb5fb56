// A run that diverges: what it may not leave behind. Constants of the optimizer that would make it.
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/optimizer_limits.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

/// The exit code of a run on some ranks, and what rank 0 said.
std::pair<ExitCode, std::string> outcome(int ranks, const Config& config) {
  std::pair<ExitCode, std::string> out{ExitCode::internal, ""};
  run_ranks(ranks, [&](Communicator& world) {
    auto code = ExitCode::ok;
    std::string said;
    try {
      code = Trainer(resolve_run(config, world.size()), world).run();
    } catch (const Error& error) {
      code = error.code(), said = error.what();
    }
    if (world.rank() == 0) out = {code, said};
  });
  return out;
}

std::vector<std::string> checkpoints_of(const Config& config) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(config.run.folder + "/checkpoints"))
    names.push_back(entry.path().filename().string());
  return names;
}

Config diverging_run(const std::string& folder, ComputeDtype dtype, double lr) {
  auto config = tiny_run(folder);
  config.train.compute_dtype = dtype;
  config.train.steps = 1;
  config.optimizer.lr = lr;
  config.optimizer.beta1 = 0;  // the first step is as large as the rate
  config.schedule.warmup_steps = 0;
  config.checkpoint = {.every_steps = 0, .keep = 1, .save_last = true};
  return config;
}

std::vector<std::string> problems_of(const std::function<void(OptimizerConfig&)>& change,
                                     ComputeDtype dtype = ComputeDtype::float32) {
  OptimizerConfig config;
  change(config);
  return validate(config, dtype);
}

}  // namespace

TEST_CASE("a model that diverged is not saved, and the last good checkpoint stays") {
  const int ranks = GENERATE(1, 2);
  // Updates that are infinite, or finite and too large to compute with.
  const auto [dtype, lr] = GENERATE(std::pair(ComputeDtype::float32, 1e38), std::pair(ComputeDtype::float32, 1e30),
                                    std::pair(ComputeDtype::bfloat16, 1e38), std::pair(ComputeDtype::float64, 1e300));
  INFO(fmt::format("{} ranks, rate {}", ranks, lr));
  TempFolder folder;
  auto config = diverging_run(folder / "run", dtype, 1e-3);
  config.train.steps = 3;
  REQUIRE(outcome(ranks, config).first == ExitCode::ok);
  const auto good = checkpoints_of(config);
  REQUIRE(good == std::vector<std::string>{"step_000000003"});
  config.train.steps = 4;
  config.optimizer.lr = lr;
  const auto [code, said] = outcome(ranks, config);
  CHECK(code == ExitCode::non_finite);
  CHECK_THAT(said, Catch::Contains("step 4: ") && Catch::Contains("optimizer.lr"));
  CHECK(checkpoints_of(config) == good);
  config.train.steps = 6;
  config.optimizer.lr = 1e-3;
  CHECK(outcome(ranks, config).first == ExitCode::ok);
  CHECK(checkpoints_of(config) == std::vector<std::string>{"step_000000006"});
}

TEST_CASE("a run that diverges before its first checkpoint leaves none") {
  TempFolder folder;
  const auto config = diverging_run(folder / "run", ComputeDtype::float32, 1e38);
  CHECK(outcome(2, config).first == ExitCode::non_finite);
  CHECK_FALSE(fs::exists(config.run.folder + "/checkpoints"));
}

TEST_CASE("weights that are not finite are not trained on") {
  TempFolder folder;
  auto config = diverging_run(folder / "run", ComputeDtype::float32, 1e-3);
  config.model.init_std = 1e300;
  const auto [code, said] = outcome(2, config);
  CHECK(code == ExitCode::non_finite);
  CHECK_THAT(said, Catch::StartsWith("initial weights (model.init_std): not finite: weight embedding.weight"));
  CHECK_FALSE(fs::exists(config.run.folder + "/metrics.jsonl"));
}

TEST_CASE("AdamW's constants that vanish or overflow where they are used are refused by name") {
  using C = OptimizerConfig&;
  const std::vector<std::tuple<std::string, std::string, std::function<void(C)>>> bad{
      {"optimizer.lr: 1e+300", "infinite in fp32", [](C c) { c.lr = 1e300; }},
      {"optimizer.lr: 1e-60", "vanishes in fp32", [](C c) { c.lr = 1e-60; }},
      {"optimizer.lr: 1e+38 / (1 - beta1 0.9)", "infinite in fp32", [](C c) { c.lr = 1e38, c.weight_decay = 0; }},
      {"optimizer.eps: 1e-50", "vanishes in fp32", [](C c) { c.eps = 1e-50; }},
      {"optimizer.eps: 1e-40", "vanishes in fp32", [](C c) { c.eps = 1e-40; }},  // not a normal number
      {"optimizer.eps: 1e+40", "infinite in fp32", [](C c) { c.eps = 1e40; }},
      {"optimizer.beta1: 0.99999999999", "rounds to 1 in fp32", [](C c) { c.beta1 = 0.99999999999; }},
      {"optimizer.beta2: 0.99999999", "rounds to 1 in fp32", [](C c) { c.beta2 = 0.99999999; }},
      {"optimizer.clip_norm: 1e-42", "vanishes in fp32", [](C c) { c.clip_norm = 1e-42; }},
      {"optimizer.clip_norm: 1e+39", "infinite in fp32", [](C c) { c.clip_norm = 1e39; }},
      {"optimizer.weight_decay: 1e-09", "nothing decays", [](C c) { c.weight_decay = 1e-9; }},
      {"optimizer.weight_decay: 1e+39", "infinite in fp32", [](C c) { c.weight_decay = 1e39; }},
      {"optimizer.weight_decay: 1e+38", "at lr 100 is infinite", [](C c) { c.weight_decay = 1e38, c.lr = 100; }},
  };
  for (const auto& [key, why, change] : bad) {
    INFO(key);
    const auto problems = problems_of(change);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith(key) && Catch::Contains(why));
  }
  CHECK(problems_of([](C) {}).empty());
  CHECK(problems_of([](C c) { c.weight_decay = c.clip_norm = c.beta1 = c.beta2 = 0; }).empty());
  CHECK(problems_of([](C c) { c.lr = 1e300, c.eps = 1e-100, c.beta2 = 0.9999999999; }, ComputeDtype::float64).empty());
  CHECK(problems_of([](C c) { c.eps = 1e-320; }, ComputeDtype::float64).size() == 1);
  CHECK(problems_of([](C c) { c.lr = 1e300; }, ComputeDtype::bfloat16).size() == 1);
}

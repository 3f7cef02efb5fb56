// Runs that start from a checkpoint of another run: weights alone, with its moments, or with its progress too.
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/lr_schedule.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// What one rank holds before the first step of a run.
std::map<std::string, FlatParams> state_at_start(const Config& config) {
  const auto world = make_single_communicator();
  return whole_state(Trainer(resolve_run(config, 1), *world));
}

bool same(const FlatParams& a, const FlatParams& b) {
  bool equal = a.size() == b.size();
  for (const auto& [name, values] : a) equal &= at::equal(values, b.at(name));
  return equal;
}

bool is_zero(const FlatParams& a) {
  return std::ranges::all_of(
      a, [](const auto& item) { return item.second.count_nonzero().template item<int64_t>() == 0; });
}

std::string error_of(const Config& config) {
  try {
    state_at_start(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a run that keeps the optimizer starts with the moments of another run, bit for bit") {
  TempFolder folder;
  const auto first = saving_run(folder / "first");
  const auto source = run_single(first).state;
  auto second = saving_run(folder / "second");
  second.run.seed = 42;
  second.train.init_from = step_folder(first, 6);
  auto state = state_at_start(second);
  CHECK(same(state["weight"], source.at("weight")));
  CHECK(is_zero(state["exp_avg"]));
  CHECK(is_zero(state["exp_avg_sq"]));

  second.train.init_optimizer = InitOptimizer::keep;
  state = state_at_start(second);
  for (const char* kind : {"weight", "exp_avg", "exp_avg_sq"}) CHECK(same(state[kind], source.at(kind)));

  // Their step counts on, for the bias correction, also where the run is stopped and resumed.
  const auto whole = run_single(second);
  CHECK(Manifest::read(step_folder(second, 2)).optimizer_steps == 8);
  auto stopped = second;
  stopped.run.folder = folder / "stopped";
  stopped.train.steps = 3;
  run_single(stopped);
  stopped.train.steps = 6;
  const auto resumed = run_single(stopped);
  CHECK(resumed.metrics == whole.metrics);
  for (const auto& [kind, values] : whole.state) CHECK(same(values, resumed.state.at(kind)));
}

TEST_CASE("a run that continues another run is that run: metrics and trained state, bit for bit") {
  const int ranks = GENERATE(1, 2);
  TempFolder folder;
  const auto first = saving_run(folder / "first");
  run_to_the_end(ranks, first);
  auto second = saving_run(folder / "second");
  second.train.init_from = step_folder(first, 3);
  second.train.init_optimizer = InitOptimizer::keep;
  second.train.init_progress = InitProgress::continued;
  run_to_the_end(ranks, second);
  const auto all = metrics_of(folder / "first"), rest = metrics_of(folder / "second");
  REQUIRE(rest.size() == 3);
  for (size_t i = 0; i < 3; ++i) CHECK(rest[i] == all[i + 3]);
  check_same_shards(second, first, 6, ranks);
}

TEST_CASE("a run changes from the balance of the step before, and to it in a run that continues it") {
  const int ranks = GENERATE(1, 2);
  TempFolder folder;
  const auto granularity = [](Config& config, BalanceGranularity value) {
    config.model.load_balancing_granularity = value;
  };
  auto first = saving_run(folder / "first");
  granularity(first, BalanceGranularity::previous_step);
  first.train.steps = 3;
  run_to_the_end(ranks, first);
  granularity(first, BalanceGranularity::sequence);
  first.train.steps = 6;
  run_to_the_end(ranks, first);
  CHECK(metrics_of(folder / "first").size() == 6);

  granularity(first, BalanceGranularity::previous_step);
  first.train.steps = 8;
  const auto resume = [&] {
    try {
      run_to_the_end(ranks, first);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK_THAT(resume(), Catch::Contains("model.load_balancing_granularity: sequence -> previous_step: there are no") &&
                           Catch::Contains("train.init_from=" + step_folder(first, 6) + " "));
  auto second = first;
  second.run.folder = folder / "second";
  second.train.init_from = step_folder(first, 6);
  second.train.init_optimizer = InitOptimizer::keep;
  second.train.init_progress = InitProgress::continued;
  run_to_the_end(ranks, second);
  const auto rest = metrics_of(folder / "second");
  REQUIRE(rest.size() == 2);
  CHECK(rest[0].at("step") == 7);
  CHECK(rest[0].at("load_balancing_loss").get<double>() == Approx(1));  // equal counts: E sum_e p_e / E
  CHECK(rest[1].at("load_balancing_loss").get<double>() != Approx(1));
}

TEST_CASE("what cannot be kept or continued is refused by key") {
  TempFolder folder;
  const auto first = saving_run(folder / "first");
  run_single(first);
  auto second = saving_run(folder / "second");
  second.train.init_from = step_folder(first, 6);
  second.train.init_progress = InitProgress::continued;
  second.run.seed = 42;
  CHECK_THAT(error_of(second), Catch::Contains("run.seed") && Catch::Contains("was written with a different config"));
  second.run.seed = first.run.seed;
  CHECK(error_of(second) == "accepted");

  second.train.init_progress = InitProgress::restart;
  second.train.init_optimizer = InitOptimizer::keep;
  second.train.init_from = OLMOE_SOURCE_DIR "/tests/golden";
  CHECK_THAT(error_of(second), !Catch::Contains("accepted"));
  second.train.init_from = "";
  const auto problems = validate(second);
  CHECK(std::ranges::find(problems, "train.init_optimizer: keep needs a step's folder in train.init_from") !=
        problems.end());
}

TEST_CASE("the anneal of the published model has its learning rates") {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b-anneal.yaml", {});
  const auto base = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", {});
  CHECK(differing_fields(config.model, base.model).empty());
  CHECK(config.train.init_optimizer == InitOptimizer::keep);
  CHECK(config.train.init_progress == InitProgress::restart);
  const auto rate = [&](int64_t step) {
    return learning_rate(config.schedule, config.optimizer.lr, config.train.steps, step);
  };
  for (const int64_t step : {1, 1000, 11921, 23841})
    CHECK(rate(step) == Approx(4e-5 * (1 - static_cast<double>(step) / 23842)).epsilon(1e-9));
  CHECK(rate(23842) == Approx(0).margin(1e-18));
}

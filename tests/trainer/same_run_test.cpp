// What a run that resumes may change, and what is said of it.
#include "trainer/same_run.h"

#include <unistd.h>

#include <cstdio>
#include <set>

#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/fixed_keys.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

/// What `work` logs.
std::string logged(const TempFolder& folder, const std::function<void()>& work) {
  const auto path = folder.add("log", "");
  const int before = ::dup(STDERR_FILENO);
  ENSURE(std::freopen(path.c_str(), "a", stderr) != nullptr, "cannot redirect stderr");
  log::set_level(log::Level::info);
  try {
    work();
  } catch (const Error& error) {
    log::error("{}", error.what());
  }
  log::set_level(log::Level::error);
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  return read_text(path);
}

/// What is logged, or the error, where a run of this config resumes from a checkpoint of tiny_run.
std::string resume(const std::function<void(Config&)>& change) {
  const TempFolder folder;
  const auto world = make_single_communicator();
  auto config = tiny_run("run");
  Manifest manifest;
  manifest.config = write_config(config);
  manifest.data_fingerprint = make_source(config, *world)->fingerprint();
  change(config);
  const auto source = make_source(config, *world);
  return logged(folder, [&] { check_same_run(manifest, "step", config, *source, *world, UnknownKeys::refused); });
}

struct Change {
  std::string difference;
  std::function<void(Config&)> make;
};

}  // namespace

TEST_CASE("keys of the loss, its memory and the start may change on resume, and are logged") {
  const std::vector<Change> changes{
      {"model.load_balancing_weight: 0.01 -> 0.5", [](auto& c) { c.model.load_balancing_weight = 0.5; }},
      {"model.load_balancing_granularity: micro_batch -> sequence",
       [](auto& c) { c.model.load_balancing_granularity = BalanceGranularity::sequence; }},
      {"model.router_z_weight: 0.001 -> 0.25", [](auto& c) { c.model.router_z_weight = 0.25; }},
      {"model.loss_chunk: 7 -> 5", [](auto& c) { c.model.loss_chunk = 5; }},
      {"model.init_std: 0.3 -> 0.02", [](auto& c) { c.model.init_std = 0.02; }},
      {"model.init_cutoff: 3 -> 2", [](auto& c) { c.model.init_cutoff = 2; }},
      {"optimizer.lr: 0.001 -> 0.01", [](auto& c) { c.optimizer.lr = 0.01; }},
      {"optimizer.groups: [] -> [{match: head.weight, lr_scale: 2, weight_decay: null, frozen: false}]",
       [](auto& c) { c.optimizer.groups = {{.match = "head.weight", .lr_scale = 2}}; }},
      {"train.steps: 3 -> 9", [](auto& c) { c.train.steps = 9; }}};
  for (const auto& [difference, make] : changes) {
    const auto text = resume(make);
    CHECK_THAT(text, Contains("changed since step: " + difference));
    CHECK_THAT(text, !Contains("written with a different config"));
  }
  CHECK(resume([](Config&) {}).empty());
}

TEST_CASE("keys that make another function or another order of the data are refused, each by its values") {
  const std::vector<Change> changes{
      {"model.top_k: 2 -> 1", [](auto& c) { c.model.top_k = 1; }},
      {"model.rope_theta: 10000 -> 5000", [](auto& c) { c.model.rope_theta = 5000; }},
      {"model.capacity_factor: null -> 1.5", [](auto& c) { c.model.capacity_factor = 1.5; }},
      {"run.seed: ", [](auto& c) { c.run.seed += 1; }},
      {"train.global_batch_size: 5 -> 6", [](auto& c) { c.train.global_batch_size = 6; }},
      {"data.sequence_length: 12 -> 10", [](auto& c) { c.data.sequence_length = 10; }}};
  for (const auto& [difference, make] : changes) {
    const auto text = resume(make);
    CHECK_THAT(text, Contains("step was written with a different config:\n  " + difference) &&
                         Contains("Restore these values, or use another run.folder"));
    CHECK_THAT(text, !Contains("changed since step"));
  }
}

TEST_CASE("of several changes those that may be made are logged, and the others are one error") {
  const auto text = resume([](Config& config) {
    config.model.loss_chunk = 5;
    config.model.num_layers = 2;
    config.run.seed += 1;
  });
  CHECK_THAT(text, Contains("changed since step: model.loss_chunk: 7 -> 5") &&
                       Contains("different config:\n  run.seed: ") && Contains("\n  model.num_layers: 3 -> 2\n") &&
                       !Contains("the training tokens changed"));
}

TEST_CASE("each fixed or free key is a key of a config") {
  std::set<std::string> fixed, all;
  Config config;
  visit_fields(config, [&](const std::string& path, const ConfigField& field) {
    all.insert(path);
    if (field.type != "section" && is_fixed_key(path)) fixed.insert(path);
    return true;
  });
  for (const std::string key : {"run.seed", "train.global_batch_size", "data.sequence_length", "model.d_model"})
    CHECK(fixed.contains(key));
  for (const std::string key : {"model.load_balancing_weight", "model.load_balancing_granularity",
                                "model.load_balancing_over_layers", "model.balancing_bias_rate",
                                "model.router_z_weight", "model.loss_chunk", "model.init_std", "model.init_cutoff"}) {
    CHECK(all.contains(key));
    CHECK_FALSE(fixed.contains(key));
  }
  CHECK_FALSE(fixed.contains("train.steps"));
}

// Runs that mask sequences (data.instance_filter): what a masked one changes of a step, in every layout, and resumed.
#include "data/instance_filter.h"

#include "data/sequence_skip.h"
#include "data/token_files.h"
#include "model/init.h"
#include "support/layout_ladder.h"
#include "trainer/device_step.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// 30 sequences of 12 ids; every third one is one id alone.
std::string repeating_bytes() {
  std::string bytes;
  for (int i = 0; i < 360; ++i) bytes += {static_cast<char>(i / 12 % 3 == 0 ? 7 : i * 11 % 50), '\0'};
  return bytes;
}

Config filtered_run(const TempFolder& folder, Config config) {
  config.data.synthetic = false;
  config.data.paths = {folder.add("tokens.npy", repeating_bytes())};
  config.data.instance_filter = {.repetition_max_count = 6};
  return config;
}

/// A step of one rank on sequences [0, count) of `source`, without losses of routers.
StepTotals step_on(const SequenceSource& source, int64_t count) {
  auto model = tiny_model();
  model.load_balancing_weight = model.router_z_weight = 0;
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh), mesh, runner_options(at::kDouble));
  fill_weights(runner.units(), random_init(model, 7));
  const OptimizerConfig config;
  Optimizer optimizer(runner.units(), config);
  DeviceStep step(runner, optimizer, mesh, {.global_batch = count, .micro_batch = count, .ranks = 1}, nullptr);
  return step.run([&] { return make_batch(source, 0, count); }, 1, 1e-3).read(*world);
}

}  // namespace

TEST_CASE("a masked sequence adds no loss and no gradient, and counts where the loss is divided") {
  TempFolder folder;
  const auto path = folder.add("tokens.npy", repeating_bytes());
  const auto dataset = std::make_shared<TokenDataset>(std::vector{path}, TokenDtype::uint16, 12, 50);
  const std::shared_ptr<const SequenceSource> in_order = make_file_source(dataset, 0, /*shuffle=*/false);
  const auto masked = step_on(*make_filtered_source(in_order, {.repetition_max_count = 6}), 3);  // the first of three
  CHECK(masked.masked_sequences == 1);
  CHECK(masked.targets == 3 * 11);
  const SequenceSkip first(std::vector<SkipRange>{{SkipUnit::sequences, 0, 0}}, 3);
  const auto others = step_on(*make_skipping_source(in_order, first), 2);
  CHECK(others.masked_sequences == 0);
  CHECK(masked.cross_entropy_sum == Approx(others.cross_entropy_sum).epsilon(1e-13));
  CHECK(masked.loss() == Approx(others.loss() * 2 / 3).epsilon(1e-13));
  CHECK(masked.grad_norm == Approx(others.grad_norm * 2 / 3).epsilon(1e-12));
}

TEST_CASE("a run counts its masked sequences, in every layout of 4 ranks alike") {
  TempFolder folder;
  auto config = filtered_run(folder, ladder_run(folder / "run", 4));
  config.train.steps = 6;  // 30 sequences: each of the file once
  const auto reference = run_single(config);
  int64_t masked = 0;
  for (const auto& line : reference.metrics) masked += line.value("masked_sequences", int64_t{0});
  CHECK(masked == 10);
  check_layouts(config, 4, reference);
  config.run.folder = folder / "unfiltered";
  config.data.instance_filter = {};
  for (const auto& line : run_single(config).metrics) CHECK_FALSE(line.contains("masked_sequences"));
}

TEST_CASE("a step of masked sequences alone has no loss, and the run goes past it") {
  TempFolder folder;
  auto config = filtered_run(folder, tiny_run(folder / "run"));
  config.data.paths = {folder.add("one.npy", std::string(240, '\0'))};  // 10 sequences of id 0
  config.model.load_balancing_weight = config.model.router_z_weight = 0;
  for (const auto& line : run_single(config).metrics) {
    CHECK(line["masked_sequences"] == 5);
    CHECK(line["loss"] == 0);
    CHECK(line["grad_norm"] == 0);
  }
}

TEST_CASE("a run with a filter resumes bit for bit, and may resume with another") {
  TempFolder folder;
  const auto whole = filtered_run(folder, saving_run(folder / "whole"));
  auto cut = whole;
  cut.run.folder = folder / "cut";
  run_to_the_end(2, whole);
  auto part = cut;
  part.train.steps = 3;
  run_to_the_end(2, part);
  run_to_the_end(2, cut);
  CHECK(lines_of(cut.run.folder) == lines_of(whole.run.folder));
  check_same_shards(cut, whole, 6, 2);
  auto unfiltered = cut;
  unfiltered.data.instance_filter = {};
  unfiltered.train.steps = 7;
  CHECK_NOTHROW(run_to_the_end(2, unfiltered));
}

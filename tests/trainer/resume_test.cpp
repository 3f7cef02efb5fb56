// A run that was interrupted resumes as if it had not been; one whose config or data changed is refused.
#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr int64_t kSteps = 12;

Config long_run(const std::string& folder, ComputeDtype dtype) {
  auto config = tiny_run(folder);
  config.train.compute_dtype = dtype;
  config.train.steps = kSteps;
  config.schedule.decay_steps = kSteps;  // the same schedule for the part of the run that stops early
  config.schedule.warmup_steps = 4;
  config.checkpoint.save_last = true;
  return config;
}

void run_on(int ranks, Config config, int64_t steps) {
  config.train.steps = steps;
  run_ranks(ranks, [&](Communicator& world) {
    ENSURE(world.size() == ranks, "{} ranks run", world.size());
    Trainer trainer(resolve_run(config, world.size()), world);
    ENSURE(trainer.run() == ExitCode::ok && trainer.step() == steps, "the run stopped at {}", trainer.step());
  });
}

std::string shard_file(const Config& config, int64_t step, int rank) {
  return read_text(fmt::format("{}/checkpoints/step_{:09}/shard_{:05}.safetensors", config.run.folder, step, rank));
}

/// Runs a little of a run on a file of tokens.
class FileRun {
 public:
  FileRun() : config(tiny_run(folder_ / "run")) {
    config.data.synthetic = false;
    config.data.paths = {write_tokens("tokens.npy", 1)};
    config.checkpoint.save_last = true;
    config.train.steps = 2;
    run_on(1, config, 2);
    config.train.steps = 4;
  }
  std::string write_tokens(const std::string& name, int step) const {
    return folder_.add(name, token_bytes(600, step));
  }
  /// What a trainer says that starts on this run; it must leave every file as it was.
  std::string refusal() const {
    const auto before = snapshot(folder_ / ".");
    std::string message = "accepted";
    try {
      const auto world = make_single_communicator();
      Trainer(resolve_run(config, world->size()), *world);
    } catch (const CheckpointError& error) {
      message = error.what();
      CHECK(snapshot(folder_ / ".") == before);
    }
    return message;
  }

 private:
  TempFolder folder_;

 public:
  Config config;
};

}  // namespace

TEST_CASE("a resumed run equals an uninterrupted one bit for bit: metrics, weights and moments") {
  const int ranks = GENERATE(1, 2);
  const auto dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
  TempFolder folder;
  const auto whole = long_run(folder / "whole", dtype), cut = long_run(folder / "cut", dtype);
  run_on(ranks, whole, kSteps);
  run_on(ranks, cut, 5);
  run_on(ranks, cut, kSteps);
  const auto expected = lines_of(whole.run.folder);
  REQUIRE(expected.size() == kSteps);
  CHECK(lines_of(cut.run.folder) == expected);
  for (int rank = 0; rank < ranks; ++rank) CHECK(shard_file(cut, kSteps, rank) == shard_file(whole, kSteps, rank));
}

TEST_CASE("a run resumes on another number of ranks within 1e-12 in float64") {
  TempFolder folder;
  const auto whole = long_run(folder / "whole", ComputeDtype::float64),
             cut = long_run(folder / "cut", ComputeDtype::float64);
  run_on(1, whole, kSteps);
  run_on(2, cut, 5);
  run_on(3, cut, 9);
  run_on(1, cut, kSteps);
  const auto expected = metrics_of(whole.run.folder), ours = metrics_of(cut.run.folder);
  REQUIRE(ours.size() == expected.size());
  for (size_t i = 0; i < ours.size(); ++i)
    CHECK(ours[i]["loss"].get<double>() == Approx(expected[i]["loss"].get<double>()).epsilon(1e-12).margin(0));
}

TEST_CASE("a run resumes in another layout within 1e-12 in float64") {
  TempFolder folder;
  auto whole = long_run(folder / "whole", ComputeDtype::float64), cut = long_run(folder / "cut", ComputeDtype::float64);
  whole.model.num_experts = cut.model.num_experts = 6;
  run_on(1, whole, kSteps);
  cut.parallel = {.replicate = 1, .expert = 2, .zero_stage = 2};
  run_on(4, cut, 3);
  cut.parallel = {.replicate = 2, .expert = 3, .zero_stage = 1};
  run_on(6, cut, 6);
  cut.parallel = {.replicate = 1, .expert = 1, .zero_stage = 3};
  run_on(2, cut, 9);
  cut.parallel = {.replicate = 1, .expert = 3, .zero_stage = 3};
  run_on(3, cut, kSteps);
  const auto expected = metrics_of(whole.run.folder), ours = metrics_of(cut.run.folder);
  REQUIRE(ours.size() == expected.size());
  for (size_t i = 0; i < ours.size(); ++i)
    for (const char* key : {"loss", "grad_norm"})
      CHECK(ours[i][key].get<double>() == Approx(expected[i][key].get<double>()).epsilon(1e-12).margin(0));
}

TEST_CASE("a step that was trained but not saved is trained again, and its line replaced") {
  TempFolder folder;
  auto config = long_run(folder / "run", ComputeDtype::float64);
  config.checkpoint.every_steps = 4;
  config.checkpoint.save_last = false;
  run_on(1, config, 6);
  const auto before = metrics_of(config.run.folder);
  run_on(1, config, 8);
  const auto after = metrics_of(config.run.folder);
  REQUIRE(after.size() == 8);
  CHECK(std::equal(before.begin(), before.end(), after.begin()));
}

TEST_CASE("a finished run that is started again does nothing") {
  TempFolder folder;
  const auto config = long_run(folder / "run", ComputeDtype::float64);
  run_on(1, config, kSteps);
  const auto before = metrics_of(config.run.folder);
  run_on(1, config, kSteps);
  CHECK(metrics_of(config.run.folder) == before);
}

TEST_CASE("a run whose tokens, model, seed or batch changed is refused") {
  FileRun run;
  const auto good = run.config;
  auto check_refused = [&](const std::string& named) {
    CHECK_THAT(run.refusal(), Catch::Contains("step_000000002") && Catch::Contains(named));
    run.config = good;
  };
  run.config.model.rope_theta = 5000;
  check_refused("model.rope_theta: 10000 -> 5000");
  run.config.model.num_layers = 2;
  check_refused("model.num_layers: 3 -> 2");
  run.config.run.seed += 1;
  CHECK_THAT(run.refusal(), !Catch::Contains("the training tokens changed"));  // nor did they
  check_refused("run.seed");
  run.config.train.global_batch_size = 6;
  check_refused("train.global_batch_size: 5 -> 6");
  run.config.data.sequence_length = 10;
  check_refused("data.sequence_length: 12 -> 10");
  run.config.data.paths = {run.write_tokens("others.npy", 3)};
  check_refused("the training tokens changed");
  run.write_tokens("tokens.npy", 3);  // the same name and size
  check_refused("the training tokens changed");

  run.write_tokens("tokens.npy", 1);
  run.config.optimizer.lr = 5e-4;  // what may change
  run.config.parallel.zero_stage = 2;
  CHECK(run.refusal() == "accepted");
}

TEST_CASE("a run resumes with another attention, and its checkpoint names it") {
  FileRun run;
  const auto saved = run.config.run.folder + "/checkpoints/step_000000002";
  auto manifest = Manifest::read(saved);
  auto config = read_config_text<Config>(manifest.config, saved);
  CHECK(config.train.deterministic_attention);
  config.train.device = DeviceKind::cuda;
  config.train.attention_kernel = kernels::AttentionKernel::cudnn;
  config.train.deterministic_attention = false;
  manifest.config = write_config(config);
  manifest.write(saved);
  CHECK_THAT(Manifest::read(saved).config,
             Catch::Contains("attention_kernel: cudnn") && Catch::Contains("deterministic_attention: false"));
  CHECK(run.refusal() == "accepted");
}

TEST_CASE("data.verify: full compares every byte, on any number of ranks; sample does not") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.data.synthetic = false;
  // Token 5,000 of 40,000 lies between two samples.
  const auto write = [&](char id) {
    auto bytes = token_bytes(40'000, 1);
    bytes[2 * 5000] = id;
    return folder.add("b.npy", bytes);
  };
  config.data.paths = {folder.add("a.npy", token_bytes(600, 3)), write(1), folder.add("c.npy", token_bytes(600, 7))};
  config.checkpoint.save_last = true;
  const auto resume_with = [&](int ranks, DataVerify verify, int64_t steps) {
    config.data.verify = verify;
    try {
      run_on(ranks, config, steps);
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(resume_with(2, DataVerify::full, 1) == "accepted");
  CHECK(resume_with(3, DataVerify::full, 2) == "accepted");
  write(2);
  for (const int ranks : {1, 2})
    CHECK_THAT(resume_with(ranks, DataVerify::full, 3), Catch::Contains("the training tokens changed"));
  // Samples are all that is compared once either side has nothing else.
  CHECK(resume_with(1, DataVerify::sample, 3) == "accepted");
  write(1);
  CHECK(resume_with(2, DataVerify::full, 4) == "accepted");
  write(2);
  CHECK_THAT(resume_with(1, DataVerify::full, 5), Catch::Contains("the training tokens changed"));
}

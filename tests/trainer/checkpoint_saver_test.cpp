// When a run saves, what becomes of a save that fails, and of a checkpoint that is damaged.
#include "trainer/checkpoint_saver.h"

#include <fcntl.h>

#include "support/checkpoint_fixtures.h"
#include "support/file_size_limit.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

Config saving_run(const std::string& folder, bool async) {
  auto config = tiny_run(folder);
  config.train.steps = 8;
  config.checkpoint.every_steps = 2;
  config.checkpoint.keep = 0;
  config.checkpoint.async = async;
  return config;
}

std::string error_of(ExitCode code, int ranks, const Config& config) {
  try {
    run_to_the_end(ranks, config);
  } catch (const Error& error) {
    ENSURE(error.code() == code, "exit code {}: {}", static_cast<int>(error.code()), error.what());
    return error.what();
  }
  return "no error";
}

void flip_bit(const std::string& path, int64_t byte) {
  const FileDescriptor file(path, O_RDWR);
  std::byte value{};
  ENSURE(file.read_at(byte, {&value, 1}) == 1, "no byte {}", byte);
  value ^= std::byte{16};
  ENSURE(::pwrite(file.fd(), &value, 1, byte) == 1, "cannot write");
}

}  // namespace

TEST_CASE("asynchronous saves leave the checkpoints and metrics of synchronous ones, byte for byte") {
  const int ranks = GENERATE(1, 3);
  TempFolder folder;
  const auto waits = saving_run(folder / "sync", false), goes_on = saving_run(folder / "async", true);
  run_to_the_end(ranks, waits);
  run_to_the_end(ranks, goes_on);
  CHECK(metrics_of(folder / "async") == metrics_of(folder / "sync"));
  const auto steps = names_in(folder / "sync/checkpoints");
  CHECK(steps.size() == 4);
  CHECK(names_in(folder / "async/checkpoints") == steps);
  for (const auto& step : steps)
    for (int rank = 0; rank < ranks; ++rank) {
      const auto shard = fmt::format("/checkpoints/{}/shard_{:05}.safetensors", step, rank);
      CHECK(read_text(folder / ("async" + shard)) == read_text(folder / ("sync" + shard)));
    }
}

TEST_CASE("a run whose saves fail goes on, counts them, and ends at the third in a row") {
  const bool async = GENERATE(false, true);
  TempFolder folder;
  auto config = saving_run(folder / "run", async);
  config.train.steps = 3;
  config.checkpoint.every_steps = 1;
  run_to_the_end(1, config);
  REQUIRE(names_in(folder / "run/checkpoints").size() == 3);
  const auto block = [&](int64_t step) {  // no folder of this name can be made
    return folder.add(fmt::format("run/checkpoints/.tmp_step_{:09}", step), "a file");
  };
  for (const int64_t step : {4, 5, 6}) block(step);
  config.train.steps = 9;
  CHECK_THAT(error_of(ExitCode::checkpoint, 1, config),
             Catch::Contains("cannot save step 6") && Catch::Contains("It is failure 3 in a row, so the run ends"));
  CHECK(metrics_of(folder / "run").size() >= 6);
  CHECK(names_in(folder / "run/checkpoints").contains("step_000000003"));

  fs::remove(folder / "run/checkpoints/.tmp_step_000000006");
  run_to_the_end(1, config);  // two failures, then all others
  const auto lines = metrics_of(folder / "run");
  REQUIRE(lines.size() == 9);
  CHECK_FALSE(lines[3].contains("checkpoint_failures"));
  CHECK(lines[8]["checkpoint_failures"] == 2);
  const auto names = names_in(folder / "run/checkpoints");
  for (const int64_t step : {3, 6, 7, 8, 9}) CHECK(names.contains(fmt::format("step_{:09}", step)));
  for (const int64_t step : {4, 5}) CHECK_FALSE(names.contains(fmt::format("step_{:09}", step)));

  block(10);
  config.train.steps = 10;
  CHECK_THAT(error_of(ExitCode::checkpoint, 1, config), Catch::Contains("cannot save step 10"));  // of the last step
}

TEST_CASE("a damaged checkpoint is set aside, and the newest one that is not damaged is resumed") {
  const int ranks = GENERATE(1, 2);
  const std::string damaged = GENERATE("shard_00000.safetensors", "manifest.json", "gone");
  TempFolder folder;
  auto config = saving_run(folder / "run", true);
  run_to_the_end(2, config);
  const auto whole = metrics_of(folder / "run");
  for (const int64_t step : {6, 8}) {
    const auto path = step_folder(config, step) + "/" + (damaged == "gone" ? "shard_00001.safetensors" : damaged);
    if (damaged == "gone")
      fs::remove(path);
    else
      flip_bit(path, static_cast<int64_t>(fs::file_size(path)) / 2);
  }
  SECTION("fall_back") {
    run_to_the_end(ranks, config);
    CHECK(names_in(folder / "run/checkpoints") == std::set<std::string>{"step_000000002", "step_000000004",
                                                                        "step_000000006", "step_000000006.damaged-1",
                                                                        "step_000000008", "step_000000008.damaged-1"});
    if (ranks == 2) CHECK(metrics_of(folder / "run") == whole);
  }
  SECTION("stop") {
    config.checkpoint.on_damage = OnDamage::stop;
    const auto before = snapshot(folder / "run/checkpoints");
    const auto said = error_of(ExitCode::checkpoint, ranks, config);
    CHECK_THAT(said,
               Catch::Contains("cannot load step 8: ") &&
                   Catch::Contains("Restore it, or move " + step_folder(config, 8) + " away to resume from step 6"));
    CHECK(snapshot(folder / "run/checkpoints") == before);
  }
}

TEST_CASE("a run whose checkpoints are all damaged does not start anew") {
  TempFolder folder;
  auto config = saving_run(folder / "run", true);
  config.checkpoint.keep = 1;
  run_to_the_end(1, config);
  flip_bit(step_folder(config, 8) + "/shard_00000.safetensors", 4000);
  for (int attempt = 0; attempt < 2; ++attempt)
    CHECK_THAT(error_of(ExitCode::checkpoint, 1, config), Catch::Contains("all of them were damaged and set aside"));
  CHECK(names_in(folder / "run/checkpoints") == std::set<std::string>{"step_000000008.damaged-1"});
  fs::remove_all(folder / "run/checkpoints/step_000000008.damaged-1");
  run_to_the_end(1, config);
}

TEST_CASE("a run ends before its disk is full, with its step saved") {
  TempFolder folder;
  auto config = saving_run(folder / "run", GENERATE(false, true));
  config.checkpoint.min_free = 1e9;
  CHECK_THAT(error_of(ExitCode::checkpoint, 2, config),
             Catch::Contains("less than checkpoint.min_free: ") && Catch::Contains("Step 1 is saved"));
  CHECK(names_in(folder / "run/checkpoints") == std::set<std::string>{"step_000000001"});
  config.checkpoint.min_free = 1e-9;
  run_to_the_end(2, config);
}

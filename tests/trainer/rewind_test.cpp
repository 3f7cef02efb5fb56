// A run that is led round a bad batch: checkpoint.resume goes back to an earlier step, data.skip leaves data out.
#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

constexpr int64_t kBatch = 5;

/// Trains to `steps` on `ranks` ranks.
void train(Config config, int64_t steps, int ranks = 1) {
  config.train.steps = steps;
  run_to_the_end(ranks, config);
}

/// What a run says that must not start; it must leave every file as it was.
std::string refusal(const Config& config) {
  const auto before = snapshot(config.run.folder);
  try {
    train(config, 12);
  } catch (const CheckpointError& error) {
    CHECK(snapshot(config.run.folder) == before);
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a run that goes back and skips steps is the run that never saw their data, bit for bit") {
  const int ranks = GENERATE(1, 2, 3);
  const bool async = GENERATE(true, false);
  TempFolder folder;
  auto clean = saving_run(folder / "clean");
  clean.checkpoint.async = async;
  clean.data.skip = {{SkipUnit::sequences, 2 * kBatch, 4 * kBatch - 1}};
  train(clean, 8, ranks);

  auto config = saving_run(folder / "run");
  config.checkpoint.async = async;
  train(config, 6, ranks);
  config.checkpoint.resume = "2";
  config.data.skip = {{SkipUnit::steps, 3, 4}};
  train(config, 5, ranks);
  CHECK(fs::exists(step_folder(config, 6) + ".abandoned-1/manifest.json"));
  train(config, 8, ranks);  // resumes from step 5, and does not go back again
  CHECK_FALSE(fs::exists(step_folder(config, 3) + ".abandoned-2"));

  CHECK(lines_of(config.run.folder) == lines_of(clean.run.folder));
  check_same_shards(config, clean, 8, ranks);
  std::istringstream abandoned(read_text(config.run.folder + "/metrics.jsonl.abandoned-1"));
  int64_t lines = 0;
  for (std::string line; std::getline(abandoned, line);) ++lines;
  CHECK(lines == 6);
}

TEST_CASE("steps to skip are those of the run as it was: ranges before them hold already") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  train(config, 6);
  config.checkpoint.resume = "2";
  config.data.skip = {{SkipUnit::steps, 3, 4}};
  train(config, 6);
  config.data.skip.push_back(
      {SkipUnit::steps, 4, 4});  // the fourth step of this second try, which took the sixth batch
  train(config, 6);
  CHECK(fs::exists(step_folder(config, 6) + ".abandoned-2"));
  auto clean = saving_run(folder / "clean");
  clean.data.skip = {{SkipUnit::sequences, 2 * kBatch, 4 * kBatch - 1},
                     {SkipUnit::sequences, 5 * kBatch, 6 * kBatch - 1}};
  train(clean, 6);
  CHECK(lines_of(config.run.folder) == lines_of(clean.run.folder));
  CHECK_THAT(Manifest::read(step_folder(config, 6)).config, Catch::Contains("unit: steps"));
}

TEST_CASE("data that was trained on cannot be skipped, and skipped data cannot come back; the refusal writes nothing") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  config.data.skip = {{SkipUnit::steps, 2, 2}};
  train(config, 6);
  auto changed = config;
  changed.data.skip.push_back({SkipUnit::steps, 6, 7});
  CHECK_THAT(refusal(changed),
             Catch::Contains("data.skip: step 6 took sequence 30 of the stream, and would take 40 now") &&
                 Catch::Contains("resume from step 5 or an earlier one (checkpoint.resume)"));
  changed.checkpoint.resume = "6";
  CHECK_THAT(refusal(changed), Catch::Contains("data.skip: step 6 took"));
  changed.data.skip.clear();
  changed.checkpoint.resume = "3";
  CHECK_THAT(refusal(changed), Catch::Contains("data.skip: step 2 took sequence 10"));
  changed = config;
  changed.data.skip.push_back({SkipUnit::steps, 7, 7});
  train(changed, 8);
}

TEST_CASE("a run goes back only to a checkpoint that it has, of the same model") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  config.checkpoint.resume = "2";
  CHECK_THAT(([&] {
               try {
                 train(config, 6);
               } catch (const CheckpointError& error) {
                 return std::string(error.what());
               }
               return std::string("accepted");
             })(),
             Catch::Contains("has no checkpoint of that step; it has none"));
  CHECK_FALSE(fs::exists(config.run.folder));
  config.checkpoint.resume = "newest";
  config.checkpoint.keep = 2;
  train(config, 6);
  config.checkpoint.resume = "2";
  CHECK_THAT(refusal(config), Catch::Contains("checkpoint.resume=2") && Catch::Contains("it has 5, 6"));
  config.checkpoint.resume = "5";
  config.model.rope_theta = 77;
  CHECK_THAT(refusal(config), Catch::Contains("model.rope_theta"));
}

TEST_CASE("abandoned checkpoints are neither counted nor removed by retention, nor resumed") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  config.checkpoint.keep = 3;
  train(config, 6);
  config.checkpoint.resume = "4";
  train(config, 9);
  for (const int64_t step : {5, 6}) CHECK(fs::exists(step_folder(config, step) + ".abandoned-1/manifest.json"));
  for (const int64_t step : {7, 8, 9}) CHECK(fs::exists(step_folder(config, step)));
  for (const int64_t step : {4, 5, 6}) CHECK_FALSE(fs::exists(step_folder(config, step)));
  train(config, 10);  // step 4 is gone, and the run has gone back to it already
  CHECK(fs::exists(step_folder(config, 10)));
}

TEST_CASE("weights that stayed of the history that is left are set aside, and those of the new one stay") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  config.checkpoint.keep = 2;
  config.checkpoint.keep_every_steps = 2;
  config.checkpoint.keep_weights_every_steps = 3;
  train(config, 6);
  const auto kept = folder / "run/weights/step_000000003";
  REQUIRE(fs::exists(kept));
  config.checkpoint.resume = "2";
  config.data.skip = {{SkipUnit::steps, 3, 3}};
  train(config, 6);
  CHECK(fs::exists(kept + ".abandoned-1/manifest.json"));
  const auto shard = [](const std::string& at) { return read_text(at + "/shard_00000.safetensors"); };
  CHECK(shard(kept) != shard(kept + ".abandoned-1"));
  CHECK_THAT(Manifest::read(kept).config, Catch::Contains("unit: steps"));
}

TEST_CASE("a damaged checkpoint is not gone back to: nothing is renamed, and later ones stay") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  train(config, 6);
  const auto path = step_folder(config, 3) + "/shard_00000.safetensors";
  auto bytes = read_text(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_text_atomic(path, bytes);
  config.checkpoint.resume = "3";
  const auto names = [&] {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder / "run/checkpoints")) all.push_back(entry.path().string());
    std::ranges::sort(all);
    return all;
  };
  const auto before = names();
  CHECK_THROWS_WITH(train(config, 8), Catch::Contains("shard_00000.safetensors: damaged") &&
                                          Catch::Contains("name another step than checkpoint.resume=3"));
  CHECK(names() == before);
  CHECK_FALSE(fs::exists(folder / "run/metrics.jsonl.abandoned-1"));
}

TEST_CASE("a later checkpoint of another version need not be readable to go back before it") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  train(config, 6);
  auto newest = Manifest::read(step_folder(config, 6));
  newest.config += "of_a_newer_version: {a: 1}\n";
  newest.write(step_folder(config, 6));
  config.checkpoint.resume = "4";
  train(config, 6);
  CHECK(fs::exists(step_folder(config, 6) + ".abandoned-1"));
}

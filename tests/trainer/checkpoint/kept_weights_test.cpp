// checkpoint.keep_weights_every_steps: what stays of checkpoints that retention removes.
#include "trainer/checkpoint/kept_weights.h"

#include "support/catch.h"
#include "support/checkpoint_fixtures.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

Config weights_run(const std::string& folder) {
  auto config = saving_run(folder);
  config.checkpoint.keep = 1;
  config.checkpoint.keep_weights_every_steps = 2;
  return config;
}

std::set<std::string> names_below(const std::string& folder) {
  return fs::exists(folder) ? names_in(folder) : std::set<std::string>();
}

std::map<std::string, at::Tensor> tensors_of(const std::string& step_folder) {
  CheckpointReader checkpoint(step_folder);
  checkpoint.verify_all();
  std::map<std::string, at::Tensor> out;
  for (const auto& tensor : checkpoint.tensors()) {
    auto& values = out[tensor.kind + ":" + tensor.name] = at::empty({tensor.numel}, at::kDouble);
    checkpoint.read(tensor.kind, tensor.name, 0, values);
  }
  return out;
}

}  // namespace

TEST_CASE("the weights of checkpoints that are removed stay, bit for bit, and nothing else of them") {
  const int ranks = GENERATE(1, 2);
  const bool async = GENERATE(true, false);
  TempFolder folder;
  auto all = weights_run(folder / "all");
  all.checkpoint.keep = 0;
  run_to_the_end(ranks, all);
  CHECK(names_below(folder / "all/weights").empty());
  auto config = weights_run(folder / "run");
  config.checkpoint.async = async;
  run_to_the_end(ranks, config);
  CHECK(names_in(folder / "run/checkpoints") == std::set<std::string>{"step_000000006"});
  CHECK(names_in(folder / "run/weights") == std::set<std::string>{"step_000000002", "step_000000004"});
  for (const char* step : {"/step_000000002", "/step_000000004"}) {
    const auto whole = tensors_of(folder / "all/checkpoints" + step), kept = tensors_of(folder / "run/weights" + step);
    CHECK(whole.size() == 3 * kept.size());
    for (const auto& [name, values] : kept) {
      CHECK(name.starts_with("weight:"));
      CHECK(at::equal(values, whole.at(name)));
    }
    const auto before = Manifest::read(folder / "all/checkpoints" + step),
               after = Manifest::read(folder / "run/weights" + step);
    CHECK(after.step == before.step);
    CHECK(after.tokens == before.tokens);
    CHECK(after.files.size() == before.files.size());
  }
}

TEST_CASE("a run starts from kept weights, and its moments are new") {
  TempFolder folder;
  const auto config = weights_run(folder / "run");
  run_to_the_end(2, config);
  auto second = weights_run(folder / "second");
  second.train.init_from = folder / "run/weights/step_000000004";
  const auto expected = tensors_of(second.train.init_from);
  const auto world = make_single_communicator();
  const auto state = whole_state(Trainer(resolve_run(second, 1), *world));
  for (const auto& [name, values] : state.at("weight")) CHECK(at::equal(values, expected.at("weight:" + name)));
  for (const auto& [name, values] : state.at("exp_avg")) CHECK(values.count_nonzero().item<int64_t>() == 0);
}

TEST_CASE("a checkpoint whose weights cannot be kept stays whole, until they can be") {
  TempFolder folder;
  auto config = weights_run(folder / "run");
  fs::create_directories(config.run.folder);
  folder.add("run/weights", "a file in the way");
  run_to_the_end(1, config);
  CHECK(names_in(folder / "run/checkpoints") ==
        std::set<std::string>{"step_000000002", "step_000000004", "step_000000006"});
  fs::remove(folder / "run/weights");
  fs::create_directories(folder / "run/weights/.tmp_step_000000004");  // as a run that was killed leaves it
  folder.add("run/weights/.tmp_step_000000004/shard_00000.safetensors", "half");
  config.train.steps = 7;
  run_to_the_end(1, config);
  CHECK(names_in(folder / "run/checkpoints") == std::set<std::string>{"step_000000007"});
  CHECK(names_in(folder / "run/weights") ==
        std::set<std::string>{"step_000000002", "step_000000004", "step_000000006"});
}

TEST_CASE("weights are not kept of a damaged checkpoint") {
  TempFolder folder;
  auto config = weights_run(folder / "run");
  config.checkpoint.keep = 0;
  run_to_the_end(1, config);
  const auto step = folder / "run/checkpoints/step_000000004";
  auto bytes = read_text(step + "/shard_00000.safetensors");
  bytes[bytes.size() - 9] = static_cast<char>(bytes[bytes.size() - 9] ^ 4);
  write_text_atomic(step + "/shard_00000.safetensors", bytes);
  CHECK_THROWS_WITH(keep_weights(step, folder / "weights", [] { return false; }),
                    Catch::Contains("shard_00000.safetensors: damaged"));
  CHECK(names_below(folder / "weights").empty());  // what was copied so far is removed: it may be what fills the disk
}

TEST_CASE("weights are given up where the run was asked to leave, and of another history do not count as kept") {
  TempFolder folder;
  auto config = weights_run(folder / "run");
  config.checkpoint.keep = 0;
  run_to_the_end(1, config);
  const auto step = folder / "run/checkpoints/step_000000004", kept = folder / "weights/step_000000004";
  CHECK_THROWS_WITH(keep_weights(step, folder / "weights", [] { return true; }), Catch::Contains("asked to leave"));
  CHECK(names_below(folder / "weights").empty());
  const auto keep = [&](const std::string& from) { keep_weights(from, folder / "weights", [] { return false; }); };
  keep(step);
  const auto first = snapshot(folder / "weights");
  keep(step);
  CHECK(snapshot(folder / "weights") == first);

  auto other = weights_run(folder / "other");
  other.checkpoint.keep = 0;
  other.optimizer.lr = 2e-3;
  run_to_the_end(1, other);
  keep(folder / "other/checkpoints/step_000000004");
  CHECK(names_in(folder / "weights") == std::set<std::string>{"step_000000004", "step_000000004.old-1"});
  const auto expected = tensors_of(folder / "other/checkpoints/step_000000004");
  for (const auto& [name, values] : tensors_of(kept)) CHECK(at::equal(values, expected.at(name)));
}

// Resumes from a checkpoint that an older program wrote: fixtures/README.md.
#include <filesystem>

#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

const std::string kOld = OLMOE_SOURCE_DIR "/tests/trainer/checkpoint/fixtures/step_1_of_e28d4ff";
const std::string kStep = "/checkpoints/step_000000001", kShard = "/shard_00000.safetensors";
constexpr int64_t kSteps = 3;

/// The config of the old run, in today's keys, with the old checkpoint in its folder.
Config resumed_run(const std::string& folder) {
  fs::create_directories(folder + "/checkpoints");
  fs::copy(kOld + kStep, folder + kStep);
  auto config = tiny_run(folder);
  config.model = {};
  config.model.vocab_size = 50;
  config.model.d_model = 16;
  config.model.num_layers = 2;
  config.model.num_heads = 2;
  config.model.num_kv_heads = 1;
  config.model.num_experts = 4;
  config.model.top_k = 2;
  config.model.expert_width = 8;
  config.model.init_std = 0.3;
  config.train.steps = kSteps;
  config.optimizer.lr = 0.01;
  config.schedule.decay_steps = 10;
  config.data.synthetic = false;
  config.data.paths = {kOld + "/tokens.npy"};
  return config;
}

}  // namespace

TEST_CASE("a checkpoint of an older program resumes with the older program's next steps") {
  TempFolder folder;
  const auto config = resumed_run(folder / "run");
  const auto old = metrics_of(kOld), resumed = run_single(config).metrics;
  REQUIRE(old.size() == kSteps);
  REQUIRE(resumed.size() == kSteps - 1);  // step 1 is in the checkpoint
  for (size_t i = 0; i < resumed.size(); ++i) {
    CHECK(resumed[i]["step"] == old[i + 1]["step"]);
    CHECK(resumed[i]["tokens"] == old[i + 1]["tokens"]);
    // Equal on the CPU that wrote the fixture; others may sum in another order. Step 3 shows the moments, too.
    for (const char* key : {"loss", "load_balancing_loss", "router_z_loss", "grad_norm", "lr"})
      CHECK(resumed[i][key].get<double>() == Approx(old[i + 1][key].get<double>()).epsilon(1e-12).margin(0));
  }
}

TEST_CASE("a checkpoint of an older program is loaded and saved byte for byte, with the manifest of today") {
  TempFolder folder;
  const auto world = make_single_communicator();
  Trainer trainer(resolve_run(resumed_run(folder / "run"), 1), *world);
  REQUIRE(trainer.step() == 1);
  Checkpointer again(folder / "again", trainer.mesh(), {});
  again.save(Manifest::read(kOld + kStep), trainer.optimizer().state());
  CHECK(read_text(again.step_folder(1) + kShard) == read_text(kOld + kStep + kShard));
  const auto before = Manifest::read(kOld + kStep), after = Manifest::read(again.step_folder(1));
  CHECK(after.config == before.config);
  CHECK(after.made_by == before.made_by);
  REQUIRE(after.files.size() == 1);
  CHECK(after.files[0].size_bytes == before.files.at(0).size_bytes);
  CHECK(after.files[0].block_hashes.size() == 1);
}

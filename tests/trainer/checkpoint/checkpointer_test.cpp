// Checkpoints on any number of ranks, and checkpoints that are damaged or incomplete.
#include "trainer/checkpoint/checkpointer.h"

#include <atomic>

#include "support/checkpoint_fixtures.h"
#include "support/file_size_limit.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

/// What each of several ranks says when they load.
std::vector<std::string> refusals(int ranks, const std::string& folder) {
  std::vector<std::string> said(static_cast<size_t>(ranks), "accepted");
  run_ranks(ranks, [&](Communicator& world) {
    try {
      TrainedState(world, folder).load();
    } catch (const CheckpointError& error) {
      said[static_cast<size_t>(world.rank())] = error.what();
    }
  });
  return said;
}

void flip_bit(const std::string& path, int64_t byte, int bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(byte);
  const auto value = static_cast<char>(file.get() ^ (1 << bit));
  file.seekp(byte);
  file.put(value);
}

}  // namespace

TEST_CASE("a checkpoint of two ranks loads bit for bit on any number of ranks: weights and both moments") {
  TempFolder folder;
  save_on(2, folder / "checkpoints", 7);
  CHECK(names_in(folder / "checkpoints/step_000000007") ==
        std::set<std::string>{"manifest.json", "shard_00000.safetensors", "shard_00001.safetensors"});
  for (int ranks : {1, 2, 3, 4}) {
    std::atomic<int> equal = 0;
    run_ranks(ranks, [&](Communicator& world) {
      ENSURE(world.size() == ranks, "{} ranks run", world.size());
      TrainedState state(world, folder / "checkpoints");
      state.load();
      equal += state.is_filled();
    });
    CHECK(equal == ranks);
  }
}

TEST_CASE("a checkpoint of four ranks loads bit for bit on any other mesh of four ranks") {
  const std::vector<MeshShape> meshes{{1, 4, 1}, {1, 4, 2}, {1, 4, 4}, {2, 2, 1}, {2, 2, 2}, {4, 1, 1}};
  for (const auto& saved : meshes)
    for (const auto& loaded : meshes) {
      TempFolder folder;
      std::atomic<int> equal = 0;
      run_ranks(4, [&](Communicator& world) {
        TrainedState before(world, folder / "checkpoints", saved, {});
        before.fill();
        before.save(7);
        TrainedState after(world, folder / "checkpoints", loaded, {});
        ENSURE(after.is_zero() && !after.is_filled(), "there is state before it was loaded");
        after.load();
        equal += after.is_filled();
      });
      INFO("saved with experts on " << saved.expert << " ranks, loaded with " << loaded.expert);
      CHECK(equal == 4);
    }
}

TEST_CASE("damaged shards are refused by name, and nothing is written") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", shard = checkpoints + "/step_000000007/shard_00001.safetensors";
  save_on(2, checkpoints, 7);
  const auto size = static_cast<int64_t>(fs::file_size(shard));

  for (int64_t byte : {int64_t{0}, int64_t{9}, size / 2, size - 1}) {
    flip_bit(shard, byte, 3);
    CHECK_THAT(refusal(checkpoints), Catch::Contains("shard_00001.safetensors"));
    flip_bit(shard, byte, 3);
  }
  CHECK(refusal(checkpoints) == "accepted");
  for (int64_t left : {size - 1, size / 3, int64_t{0}}) {
    fs::resize_file(shard, static_cast<uintmax_t>(left));
    CHECK_THAT(refusal(checkpoints), Catch::Contains("shard_00001.safetensors"));
  }
  fs::remove(shard);
  CHECK_THAT(refusal(checkpoints), Catch::Contains("shard_00001.safetensors"));
  // The rank that checks the file names it; the others stop with it instead of loading their part.
  const auto said = refusals(3, checkpoints);
  CHECK_THAT(said[0], Catch::StartsWith("rank 0: cannot load step 7: ") && Catch::Contains("shard_00001.safetensors"));
  CHECK(said == std::vector<std::string>(3, said[0]));
}

TEST_CASE("a manifest with any damaged byte is refused by name") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", manifest = checkpoints + "/step_000000007/manifest.json";
  save_on(2, checkpoints, 7);
  const auto size = static_cast<int64_t>(fs::file_size(manifest));
  for (int64_t byte = 0; byte < size; byte += 7) {
    const int bit = static_cast<int>(byte % 8);
    INFO(fmt::format("bit {} of byte {}", bit, byte));
    flip_bit(manifest, byte, bit);
    CHECK_THAT(refusal(checkpoints), Catch::Contains("manifest.json"));
    flip_bit(manifest, byte, bit);
  }
  CHECK(refusal(checkpoints) == "accepted");
  fs::resize_file(manifest, static_cast<uintmax_t>(size / 2));
  CHECK_THAT(refusal(checkpoints), Catch::Contains("manifest.json"));
}

TEST_CASE("what an interrupted save leaves is not a checkpoint") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  const auto world = make_single_communicator();
  TrainedState state(*world, checkpoints);
  CHECK_FALSE(state.checkpointer.latest_step().has_value());  // not even a folder
  save_on(1, checkpoints, 7);
  const auto manifest = read_text(checkpoints + "/step_000000007/manifest.json");
  for (const char* name : {".tmp_step_000000004/shard_00000.safetensors", ".tmp_step_000000009/manifest.json",
                           "step_000000008/shard_00000.safetensors"})
    folder.add(std::string("checkpoints/") + name, manifest);
  const std::set<std::string> others{".tmp_other",     "step_10",        "step_0000000011",
                                     "step_00000012x", "step_+00000013", "step_-00000014"};
  for (const auto& name : others) folder.add("checkpoints/" + name + "/manifest.json", manifest);
  folder.add("checkpoints/step_000000015", "a file");
  CHECK(state.checkpointer.latest_step() == 7);
  state.load();
  CHECK(state.is_filled());

  save_on(1, checkpoints, 9);  // over the remains of the save that was interrupted
  CHECK(state.checkpointer.latest_step() == 9);
  auto left = others;  // a save removes what saves left, and nothing else
  left.insert({"step_000000007", "step_000000009", "step_000000015"});
  CHECK(names_in(checkpoints) == left);
  fs::remove_all(checkpoints + "/step_000000007");
  fs::remove_all(checkpoints + "/step_000000009");
  CHECK_FALSE(state.checkpointer.latest_step().has_value());  // garbage alone is a new run
}

TEST_CASE("a checkpoints folder that cannot be read is an error, not a new run") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  SECTION("a file in the folder's place") { folder.add("checkpoints", "a file"); }
  SECTION("a link to what is not there") { fs::create_symlink(folder / "unmounted", checkpoints); }
  SECTION("a step that cannot be looked into") {
    folder.add("checkpoints/other/file", "");
    fs::create_symlink("step_000000007", checkpoints + "/step_000000007");  // to itself
  }
  const auto said = refusals(2, checkpoints);
  CHECK_THAT(said[0], Catch::StartsWith("rank 0: cannot look for checkpoints in " + checkpoints));
  CHECK(said[1] == said[0]);
}

TEST_CASE("the newest checkpoints are kept, and only complete ones count") {
  TempFolder folder;
  const auto few = folder / "few", all = folder / "all";
  folder.add("few/step_000000099/shard_00000.safetensors", "no manifest");
  for (int64_t step : {5, 10, 15, 20}) save_on(2, few, step, 2), save_on(1, all, step, 0);
  CHECK(names_in(few) == std::set<std::string>{"step_000000015", "step_000000020"});
  CHECK(names_in(all).size() == 4);
}

TEST_CASE("a save that fails throws on every rank and leaves the checkpoint before it") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  save_on(2, checkpoints, 7);
  std::vector<std::string> said(2);
  {
    const FileSizeLimit disk_is_full(4096);
    run_ranks(2, [&](Communicator& world) {
      TrainedState state(world, checkpoints, /*keep=*/1);
      try {
        state.save(8);
      } catch (const CheckpointError& error) {
        said[static_cast<size_t>(world.rank())] = error.what();
      }
    });
  }
  CHECK_THAT(said[0], Catch::Contains("cannot save step 8: ") && Catch::Contains("shard_00000.safetensors"));
  CHECK_THAT(said[0], Catch::Contains("are needed there, ") && Catch::Contains("are free in " + checkpoints) &&
                          Catch::Contains("start the same command again"));
  CHECK(said[1] == said[0]);
  CHECK(names_in(checkpoints) == std::set<std::string>{"step_000000007"});  // nothing is left to fill the disk
  CHECK(refusal(checkpoints) == "accepted");
  save_on(2, checkpoints, 8, 1);
  CHECK(names_in(checkpoints) == std::set<std::string>{"step_000000008"});
}

TEST_CASE("a step that is in use stays until it is not, and each commit is told of before old steps are removed") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  const auto is_there = [&](int64_t step) {
    return std::filesystem::exists(fmt::format("{}/step_{:09}/manifest.json", checkpoints, step));
  };
  run_ranks(2, [&](Communicator& world) {
    std::set<int64_t> in_use{1};
    std::vector<int64_t> committed;
    Checkpointer::Options options{.retention = Checkpointer::keeping(1)};
    options.committed = [&](int64_t step) {
      ENSURE(committed.empty() || is_there(committed.back()), "step {} was removed too early", committed.back());
      committed.push_back(step);
    };
    options.is_in_use = [&](int64_t step) { return in_use.contains(step); };
    TrainedState state(world, checkpoints, {1, world.size(), 1}, options);
    state.fill();
    for (const int64_t step : {1, 2, 3}) state.save(step);
    ENSURE(committed == (world.rank() == 0 ? std::vector<int64_t>{1, 2, 3} : std::vector<int64_t>{}), "not told once");
    if (world.rank() == 0) ENSURE(is_there(1) && !is_there(2) && is_there(3), "step 1 alone is in use");
    in_use.clear();
    state.checkpointer.remove_old(3);
    if (world.rank() == 0) ENSURE(!is_there(1) && is_there(3), "nothing is in use");
  });
}

TEST_CASE("a step that another program reads stays until it was read, and goes at the save after that") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  save_on(2, checkpoints, 1);
  {
    const CheckpointReader another_program(checkpoints + "/step_000000001");
    save_on(2, checkpoints, 2, 1);
    CHECK(names_in(checkpoints) == std::set<std::string>{"step_000000001", "step_000000002"});
  }
  save_on(2, checkpoints, 3, 1);
  CHECK(names_in(checkpoints) == std::set<std::string>{"step_000000003"});
}

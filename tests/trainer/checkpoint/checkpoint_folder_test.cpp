// Other things in a checkpoints folder, and state that must not be saved.
#include "trainer/checkpoint/checkpoint_folder.h"

#include <fstream>

#include "core/files/files.h"
#include "support/checkpoint_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

}  // namespace

TEST_CASE("state that is not finite is never saved, and the checkpoint before it stays") {
  const auto [kind, value] =
      GENERATE(std::pair("weight", std::nan("")), std::pair("exp_avg", -INFINITY), std::pair("exp_avg_sq", INFINITY));
  const int bad_rank = GENERATE(0, 1);
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  save_on(2, checkpoints, 7);
  const auto before = snapshot(checkpoints);
  std::vector<std::string> said(2);
  std::vector<int> codes(2);
  run_ranks(2, [&, kind = kind, value = value](Communicator& world) {
    TrainedState state(world, checkpoints, /*keep=*/1);
    state.fill();
    if (world.rank() == bad_rank) state.spoil(kind, value);
    try {
      state.save(8);
    } catch (const Error& error) {
      codes[static_cast<size_t>(world.rank())] = static_cast<int>(error.code());
      said[static_cast<size_t>(world.rank())] = error.what();
    }
  });
  CHECK(codes == std::vector(2, static_cast<int>(ExitCode::non_finite)));
  CHECK_THAT(said[0], Catch::StartsWith(fmt::format("rank {}: step 8: not finite: {} ", bad_rank, kind)) &&
                          Catch::Contains(fmt::format(": {} (1 of ", value)) && Catch::Contains("optimizer.lr"));
  CHECK(said[1] == said[0]);
  CHECK(snapshot(checkpoints) == before);
}

TEST_CASE("a checkpoint that holds a value that is not finite is not trained on") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", step = checkpoints + "/step_000000007";
  save_on(1, checkpoints, 7);
  auto manifest = Manifest::read(step);
  const auto shard = step + "/shard_00000.safetensors";
  const auto size = static_cast<int64_t>(fs::file_size(shard));
  {
    std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(size - 2);
    file.write("\x80\x7f", 2);  // the last value, little-endian: infinite, or no number
  }
  const auto text = read_text(shard);
  auto& stated = manifest.files.at(0);
  stated.block_hashes = {hash_of(std::as_bytes(std::span(text)).subspan(static_cast<size_t>(stated.header_bytes)))};
  manifest.write(step);
  const auto said = refused_by(ExitCode::non_finite, checkpoints);
  CHECK_THAT(said, Catch::StartsWith(step + ": not finite: weight ") && Catch::Contains("move it away"));
}

TEST_CASE("errors for renamed, unreadable, damaged and missing parts of a checkpoint name them") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", newest = checkpoints + "/step_000000009";
  save_on(1, checkpoints, 7);
  save_on(1, checkpoints, 9);
  std::string problem;
  bool damage = true;  // then the run, which may take the checkpoint before it, says what to do
  SECTION("a manifest that is no JSON") {
    folder.add("checkpoints/step_000000009/manifest.json", "{");
    problem = "damaged";
  }
  SECTION("a manifest that is a folder") {
    fs::remove(newest + "/manifest.json");
    fs::create_directory(newest + "/manifest.json");
    problem = "not a regular file";
    damage = false;
  }
  SECTION("a renamed step") {
    fs::remove_all(newest);
    fs::copy(checkpoints + "/step_000000007", newest);
    problem = "is the manifest of step 7: was the folder renamed?";
    damage = false;
  }
  SECTION("a shard that became shorter") {
    fs::resize_file(newest + "/shard_00000.safetensors", 100);
    problem = "100 bytes, but the manifest says";
  }
  SECTION("a shard that is gone") { fs::remove(newest + "/shard_00000.safetensors"), problem = "No such file"; }
  const auto advice = "Restore it, or move " + newest + " away to ";
  CHECK_THAT(refusal(checkpoints), Catch::Contains(problem));
  if (!damage)
    CHECK_THAT(refusal(checkpoints), Catch::EndsWith(advice + "resume from step 7, the checkpoint before it"));
  fs::remove_all(checkpoints + "/step_000000007");
  CHECK_THAT(refusal(checkpoints), Catch::Contains(problem));
  if (!damage)
    CHECK_THAT(refusal(checkpoints), Catch::EndsWith(advice + "start a new run: there is no older checkpoint"));
}

TEST_CASE("files that no save wrote survive all saves, and nothing is removed through a link") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", other_run = folder / "other";
  save_on(1, other_run, 3);
  save_on(1, checkpoints, 5);
  const auto others = snapshot(other_run);
  fs::create_directory_symlink(other_run + "/step_000000003", checkpoints + "/step_000000003");
  for (const char* name :
       {"step_000000005/scores.json", "step_000000006/notes.txt", "README", "step_000000004.bak/x", "step_000000008"})
    folder.add(std::string("checkpoints/") + name, "mine");
  save_on(2, checkpoints, 7, /*keep=*/1);
  CHECK(snapshot(other_run) == others);
  CHECK(names_in(checkpoints + "/step_000000005") == std::set<std::string>{"scores.json"});
  CHECK(read_text(checkpoints + "/step_000000006/notes.txt") == "mine");
  save_on(2, checkpoints, 8, /*keep=*/1);  // where a file has the name
  CHECK(read_text(checkpoints + "/step_000000008.old-1") == "mine");
  CHECK(names_in(checkpoints) == std::set<std::string>{"README", "step_000000003", "step_000000004.bak",
                                                       "step_000000005", "step_000000006", "step_000000008",
                                                       "step_000000008.old-1"});
  CHECK(refusal(checkpoints) == "accepted");
  save_on(1, checkpoints, 3);  // over the link
  CHECK(snapshot(other_run) == others);
}

TEST_CASE("a start removes what an interrupted save left, and a checkpoint may be a link") {
  TempFolder folder;
  save_on(1, folder / "elsewhere", 7);
  folder.add("checkpoints/.tmp_step_000000009/shard_00000.safetensors", "half");
  fs::create_directory_symlink(folder / "elsewhere/step_000000007", folder / "checkpoints/step_000000007");
  const auto world = make_single_communicator();
  TrainedState state(*world, folder / "checkpoints");
  state.load();
  CHECK(state.is_filled());
  state.checkpointer.remove_interrupted();
  CHECK(names_in(folder / "checkpoints") == std::set<std::string>{"step_000000007"});
}

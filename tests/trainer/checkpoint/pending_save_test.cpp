// Saves in two halves: what a begun save holds, and what is left of one that is not committed.
#include "trainer/checkpoint/pending_save.h"

#include <chrono>
#include <thread>

#include "support/checkpoint_fixtures.h"
#include "support/file_size_limit.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

const std::string kTemporary = ".tmp_step_000000008", kBefore = "step_000000007", kAfter = "step_000000008";

/// Waits, for at most a minute, until this rank need not wait for its shard.
void wait_for_shard(const Checkpointer& checkpointer) {
  for (int i = 0; !checkpointer.poll(); ++i) {
    ENSURE(i < 6000, "the shard is not written");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

/// The error that `work` throws, with its exit code.
std::string error_of(ExitCode code, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    ENSURE(error.code() == code, "exit code {}: {}", static_cast<int>(error.code()), error.what());
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a checkpoint has the values at begin_save, and exists after commit") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints);
    state.fill();
    state.begin_save(8);
    ENSURE(!state.checkpointer.latest_step(), "it exists before the commit");
    state.clear();
    wait_for_shard(state.checkpointer);
    state.checkpointer.commit();
    ENSURE(state.checkpointer.latest_step() == 8, "it does not exist after the commit");
    state.load();
    ENSURE(state.is_filled(), "it has other values than those of the begin");
  });
  CHECK(names_in(checkpoints) == std::set<std::string>{kAfter});
}

TEST_CASE("replicas that write no shard take part in both halves of a save") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  run_ranks(4, [&](Communicator& world) {
    TrainedState state(world, checkpoints, {.replicate = 2, .shard = 2, .expert = 1}, {});
    state.fill();
    state.begin_save(8);
    wait_for_shard(state.checkpointer);
    state.checkpointer.commit();
    state.clear();
    state.load();
    ENSURE(state.is_filled(), "rank {} loads other values", world.rank());
  });
  CHECK(names_in(checkpoints + "/" + kAfter) ==
        std::set<std::string>{"manifest.json", "shard_00000.safetensors", "shard_00001.safetensors"});
}

TEST_CASE("a save that is not committed leaves a temporary folder, which the next start removes") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  save_on(2, checkpoints, 7);
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints, /*keep=*/1);
    state.fill();
    state.begin_save(8);
  });
  CHECK(names_in(checkpoints) == std::set<std::string>{kBefore, kTemporary});
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints);
    ENSURE(state.checkpointer.latest_step() == 7, "it counts as a checkpoint");
    state.load();
    ENSURE(state.is_filled(), "the checkpoint before it changed");
    state.checkpointer.remove_interrupted();
  });
  CHECK(names_in(checkpoints) == std::set<std::string>{kBefore});
}

TEST_CASE("begin, poll and commit in a wrong order are refused, and the save can be committed") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints);
    auto& checkpointer = state.checkpointer;
    const auto refused = [](const std::string& problem, const std::function<void()>& work) {
      const auto said = error_of(ExitCode::internal, work);
      ENSURE(said.find(problem) != std::string::npos, "{}", said);
    };
    state.fill();
    refused("no save was begun", [&] { checkpointer.poll(); });
    refused("no save was begun", [&] { checkpointer.commit(); });
    state.begin_save(7);
    const auto pending = "the save of step 7 is not committed";
    refused(pending, [&] { state.begin_save(8); });
    refused(pending, [&] { state.save(8); });
    refused(pending, [&] { checkpointer.remove_interrupted(); });
    checkpointer.commit();
    refused("no save was begun", [&] { checkpointer.commit(); });
    state.save(8);
  });
  CHECK(names_in(checkpoints) == std::set<std::string>{kBefore, kAfter});
}

TEST_CASE("a shard that cannot be written fails the commit on every rank, and the next save works") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  save_on(2, checkpoints, 7);
  std::vector<std::string> errors(2);
  std::optional<FileSizeLimit> disk_is_full;
  disk_is_full.emplace(4096);
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints, /*keep=*/1);
    state.fill();
    state.begin_save(8);
    wait_for_shard(state.checkpointer);
    errors[static_cast<size_t>(world.rank())] = error_of(ExitCode::checkpoint, [&] { state.checkpointer.commit(); });
    world.barrier();
    if (world.rank() == 0) {
      ENSURE(names_in(checkpoints) == std::set<std::string>{kBefore}, "something is left");
      disk_is_full.reset();
    }
    world.barrier();
    state.save(8);
  });
  CHECK_THAT(errors[0], Catch::Contains("cannot save step 8: ") && Catch::Contains("shard_0000") &&
                            Catch::Contains("are needed there, ") && Catch::Contains("start the same command again"));
  CHECK(errors[1] == errors[0]);
  CHECK(names_in(checkpoints) == std::set<std::string>{kAfter});
}

TEST_CASE("a save whose folder cannot be made is over on every rank") {
  TempFolder folder;
  const auto file = folder.add("file", "no folder");
  std::vector<std::string> errors(2);
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, file + "/checkpoints");
    auto& error = errors[static_cast<size_t>(world.rank())];
    error = error_of(ExitCode::checkpoint, [&] { state.save(8); });
    ENSURE(error_of(ExitCode::checkpoint, [&] { state.save(8); }) == error, "the next save fails otherwise");
    ENSURE(error_of(ExitCode::internal, [&] { state.checkpointer.commit(); }) != "no error", "there is a save");
    state.spoil("weight", NAN);
    ENSURE(error_of(ExitCode::non_finite, [&] { state.begin_save(8); }) != "no error", "it begins with NaN");
    ENSURE(error_of(ExitCode::internal, [&] { state.checkpointer.poll(); }) != "no error", "there is a save of NaN");
  });
  CHECK_THAT(errors[0], Catch::Contains("cannot save step 8: "));
  CHECK(errors[1] == errors[0]);
}

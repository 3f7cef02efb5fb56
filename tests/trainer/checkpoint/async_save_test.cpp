// Saves whose copy, write and commit run beside the caller.
#include <chrono>
#include <thread>

#include "support/checkpoint_fixtures.h"
#include "support/file_size_limit.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr auto kAsync = Checkpointer::Mode::async;
const std::string kStep7 = "step_000000007", kStep8 = "step_000000008";

/// Moves a save on until it is committed, for at most a minute.
void advance_to_the_end(Checkpointer& checkpointer) {
  for (int i = 0; !checkpointer.advance(); ++i) {
    ENSURE(i < 6000, "the save does not end");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

std::map<std::string, std::string> files_of(const std::string& step_folder) {
  std::map<std::string, std::string> out;
  for (const auto& name : names_in(step_folder)) out[name] = read_text(step_folder + "/" + name);
  return out;
}

}  // namespace

TEST_CASE("an asynchronous save has the values at its begin, and the bytes of a synchronous one") {
  const auto shape = GENERATE(MeshShape{1, 1, 1}, MeshShape{1, 3, 1}, MeshShape{2, 2, 2});
  TempFolder folder;
  run_ranks(shape.replicate * shape.shard, [&](Communicator& world) {
    TrainedState waits(world, folder / "sync", shape, {}), goes_on(world, folder / "async", shape, {});
    goes_on.mode = kAsync;
    waits.fill();
    waits.save(7);
    goes_on.fill();
    goes_on.begin_save(7);  // returns when the state may change
    goes_on.clear();
    ENSURE(goes_on.checkpointer.saving(), "no save is in flight");
    advance_to_the_end(goes_on.checkpointer);
    ENSURE(!goes_on.checkpointer.saving(), "the save is still in flight");
    ENSURE(goes_on.checkpointer.latest_step() == 7, "it is not there");
    for (int64_t step = 8; step < 11; ++step) {  // the same memory again
      goes_on.fill();
      goes_on.begin_save(step);
      goes_on.clear();
      goes_on.checkpointer.commit();
    }
    goes_on.load();
    ENSURE(goes_on.is_filled(), "the last save has other values");
  });
  CHECK(files_of(folder / "async/step_000000007") == files_of(folder / "sync/step_000000007"));
  CHECK(names_in(folder / "async").size() == 4);
}

TEST_CASE("an asynchronous save that fails on one rank fails on all, and the next one works") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  std::vector<std::string> errors(2);
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints, /*keep=*/1);
    state.mode = kAsync;
    state.fill();
    state.save(7);
    if (world.rank() == 1) {  // its shard's name is taken by a folder
      std::filesystem::create_directories(checkpoints + "/.tmp_" + kStep8 + "/shard_00001.safetensors/x");
    }
    world.barrier();
    state.begin_save(8);
    try {
      advance_to_the_end(state.checkpointer);
    } catch (const CheckpointError& error) {
      errors[static_cast<size_t>(world.rank())] = error.what();
    }
    ENSURE(!state.checkpointer.saving(), "the save is not over");
    ENSURE(state.checkpointer.latest_step() == 7, "the checkpoint before it is gone");
    world.barrier();
    if (world.rank() == 1) std::filesystem::remove_all(checkpoints + "/.tmp_" + kStep8);
    world.barrier();
    state.begin_save(8);
    state.checkpointer.commit();
  });
  CHECK_THAT(errors[0], Catch::StartsWith("rank 1: cannot save step 8: ") && Catch::Contains("shard_00001"));
  CHECK(errors[1] == errors[0]);
  CHECK(names_in(checkpoints) == std::set<std::string>{kStep8});
}

TEST_CASE("an asynchronous save of values that are not finite is not committed") {
  const std::string kind = GENERATE("weight", "exp_avg", "exp_avg_sq");
  const double value = GENERATE(as<double>{}, NAN, INFINITY, -INFINITY);
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  std::vector<std::string> errors(2);
  run_ranks(2, [&](Communicator& world) {
    TrainedState state(world, checkpoints);
    state.fill();
    state.save(7);
    if (world.rank() == 1) state.spoil(kind, value);
    state.mode = kAsync;
    state.begin_save(8);
    try {
      state.checkpointer.commit();
    } catch (const Error& error) {
      ENSURE(error.code() == ExitCode::non_finite, "{}", error.what());
      errors[static_cast<size_t>(world.rank())] = error.what();
    }
  });
  CHECK_THAT(errors[0], Catch::StartsWith("rank 1: step 8: not finite: " + kind + " ") && Catch::Contains("diverged"));
  CHECK(errors[1] == errors[0]);
  CHECK(names_in(checkpoints) == std::set<std::string>{kStep7});
}

TEST_CASE("a save whose pieces do not cover the state exactly once is not committed") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  const auto world = make_single_communicator();
  TrainedState trained(*world, checkpoints);
  trained.fill();
  auto state = trained.state();
  const std::string left_out = state.at(1).kind + ":" + state.at(1).slices.front().name;
  state.at(1).slices = state.at(1).slices.subspan(1);
  Manifest manifest;
  manifest.step = 7;
  trained.checkpointer.begin_save(manifest, state, GENERATE(Checkpointer::Mode::wait, kAsync));
  CHECK_THROWS_WITH(trained.checkpointer.commit(), Catch::Contains("cannot save step 7: ") &&
                                                       Catch::Contains("the model has " + left_out + " with ") &&
                                                       Catch::Contains("the checkpoint does not"));
  CHECK(names_in(checkpoints).empty());
}

TEST_CASE("a checkpoint that this run may not commit any more is not committed") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  const auto world = make_single_communicator();
  bool may = true;
  TrainedState state(*world, checkpoints, {1, 1, 1}, {.ensure_may_commit = [&] {
    if (!may) throw CheckpointError("another run has the folder");
  }});
  state.fill();
  state.save(7);
  may = false;
  CHECK_THROWS_WITH(state.save(8), Catch::Contains("another run has the folder"));
  CHECK(names_in(checkpoints) == std::set<std::string>{kStep7});
}

TEST_CASE("a save keeps its own checkpoint, whatever steps above it are in the folder") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  save_on(1, checkpoints, 7);
  save_on(1, checkpoints, 9);
  std::filesystem::copy(checkpoints + "/" + kStep7, checkpoints + "/step_000000003");  // a manifest of another step
  save_on(1, checkpoints, 8, /*keep=*/1);                                              // a run that resumed from step 7
  CHECK(names_in(checkpoints) == std::set<std::string>{"step_000000003", kStep8, "step_000000009"});
}

TEST_CASE("a checkpoint whose manifest cannot be removed keeps its files") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", manifest = checkpoints + "/" + kStep7 + "/manifest.json";
  save_on(1, checkpoints, 7);
  std::filesystem::remove(manifest);
  folder.add("checkpoints/" + kStep7 + "/manifest.json/in_the_way", "");  // a folder that is not empty
  remove_checkpoint(checkpoints + "/" + kStep7);
  CHECK(names_in(checkpoints + "/" + kStep7).contains("shard_00000.safetensors"));
}

// Run under ThreadSanitizer alone, which must find it: what wait_until_copied() prevents.
TEST_CASE("planted: a state that changes while it is copied", "[.planted_race]") {
  TempFolder folder;
  const auto world = make_single_communicator();
  TrainedState state(*world, folder / "checkpoints");
  state.mode = kAsync;
  state.fill();
  // Written in code that is instrumented, which LibTorch is not, and through plain pointers: the reference counts of
  // tensors would order the two accesses.
  std::vector<std::span<float>> values;
  for (const auto& tensor : state.state())
    values.emplace_back(at::Tensor(tensor.flat).mutable_data_ptr<float>(), tensor.flat.numel());
  state.begin_save_without_waiting(7);
  for (const auto& part : values) std::ranges::fill(part, 0.0F);
  state.checkpointer.commit();
}

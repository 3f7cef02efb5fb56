// Ranks that hang: noticed, compared, ended. Times are short, so each test only waits for what must come.
#include "trainer/watchdog.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <thread>

#include "core/files.h"
#include "parallel/thread_communicator.h"
#include "support/catch.h"
#include "support/temp_folder.h"

using namespace olmoe;

namespace {

namespace fs = std::filesystem;

/// Three ranks: 0 and 2 wait in a barrier, and 1 waits outside for what never comes by itself.
class StuckRun {
 public:
  /// The exit code of what ends it.
  ExitCode run() {
    try {
      run_ranks(3, [&](Communicator& world) {
        const auto give_up = [&](const std::string& report) {
          const std::lock_guard lock(mutex_);
          if (!reported.empty()) return;
          reported = report;
          world.abort(static_cast<int>(ExitCode::hang));
          ended_.set_value();
        };
        const bool is_writer = world.rank() != 1 || rank_1_writes;
        const Watchdog watchdog(
            world, {folder / (is_writer ? "traces" : "nowhere/to/write"), is_writer ? 0.4 : 60.0, give_up});
        world.barrier();
        if (world.rank() == 1) return waits_.wait();
        world.barrier();
      });
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::ok;
  }

  TempFolder folder;
  bool rank_1_writes = true;
  std::string reported;

 private:
  std::mutex mutex_;
  std::promise<void> ended_;
  std::shared_future<void> waits_ = ended_.get_future().share();
};

}  // namespace

TEST_CASE("ranks that wait for one which is elsewhere are ended, and it is named") {
  StuckRun stuck;
  CHECK(stuck.run() == ExitCode::hang);
  CHECK_THAT(stuck.reported, Catch::StartsWith("the ranks hang: no collective call of rank 0 began or returned for "));
  CHECK_THAT(stuck.reported, Catch::Contains("  ranks 0, 2: waiting in #2 world.barrier Byte 0 for "));
  CHECK_THAT(stuck.reported, Catch::Contains("in no call; finished #1 world.barrier Byte 0 "));
  CHECK_THAT(stuck.reported, Catch::Contains("look at rank 1 first: the others have come further\n"));
  CHECK(read_text(stuck.folder / "traces/report.txt") == stuck.reported);
  // Rank 1 ended well; the others' traces stay, for the tool.
  CHECK_FALSE(fs::exists(stuck.folder / "traces/rank_00001.txt"));
  CHECK_THAT(compare_trace_folder(stuck.folder / "traces"),
             Catch::Contains("  ranks 0, 2: waiting in #2 world.barrier Byte 0 for "));
}

TEST_CASE("a rank that writes no trace is silent") {
  StuckRun stuck;
  stuck.rank_1_writes = false;
  CHECK(stuck.run() == ExitCode::hang);
  CHECK_THAT(stuck.reported, Catch::Contains("  rank 1: silent, and left no trace\n"));
  CHECK_THAT(stuck.reported, Catch::Contains("look at rank 1 first: stopped, dead"));
}

TEST_CASE("ranks that go on are left alone, and leave no traces") {
  TempFolder folder;
  folder.add("traces/rank_00007.txt", "of an earlier run");
  bool all_there = false;
  run_ranks(2, [&](Communicator& world) {
    const auto fail = [](const std::string&) { std::abort(); };
    const Watchdog watchdog(world, {folder / "traces", 2, fail});
    for (int call = 0; call < 300; ++call) {  // for longer than the timeout
      if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      world.barrier();
    }
    if (world.rank() == 0)
      all_there = fs::exists(folder / "traces/rank_00000.txt") && fs::exists(folder / "traces/rank_00001.txt") &&
                  !fs::exists(folder / "traces/rank_00007.txt");
    world.barrier();
  });
  CHECK(all_there);
  CHECK_FALSE(fs::exists(folder / "traces"));
}

TEST_CASE("without a timeout nothing is watched or written") {
  TempFolder folder;
  const auto world = make_single_communicator();
  const Watchdog watchdog(*world, {folder / "traces", 0, [](const std::string&) { std::abort(); }});
  CHECK_FALSE(fs::exists(folder / "traces"));
}

TEST_CASE("a folder without traces is said to be one") {
  TempFolder folder;
  CHECK_THROWS_WITH(compare_trace_folder(folder / "."), Catch::Contains("holds no traces of ranks"));
}

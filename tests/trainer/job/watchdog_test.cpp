// Ranks that hang: noticed, compared, ended. Times are short, so each test only waits for what must come.
#include "trainer/job/watchdog.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include "core/files/files.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/temp_folder.h"

using namespace olmoe;

namespace {

namespace fs = std::filesystem;

/// What watchdogs of all ranks give up with: the first to do so ends the ranks.
class Ending {
 public:
  std::function<void(const std::string&)> give_up(Communicator& world) {
    return [this, &world](const std::string& report) {
      const std::lock_guard lock(mutex_);
      if (!reported.empty()) return;
      reported = report;
      world.abort(static_cast<int>(ExitCode::hang));
      ended_.set_value();
    };
  }
  void wait() const { waits_.wait(); }
  std::string reported;

 private:
  std::mutex mutex_;
  std::promise<void> ended_;
  std::shared_future<void> waits_ = ended_.get_future().share();
};

/// Ranks that wait in a barrier, all but rank 1, which waits outside for what never comes by itself.
class StuckRun : public Ending {
 public:
  /// The exit code of what ends it.
  ExitCode run() {
    try {
      run_ranks(ranks, [&](Communicator& world) {
        const bool is_writer = world.rank() != 1 || rank_1_writes;
        const auto traces = folder / (is_writer ? "traces" : "nowhere/to/write");
        Watchdog watchdog(world, {traces, is_writer ? timeout_s : 60, give_up(world)});
        watchdog.record(world);
        world.barrier();
        if (world.rank() == 1) {
          before_the_hang();
          return wait();
        }
        world.barrier();
      });
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::ok;
  }

  TempFolder folder;
  int ranks = 3;
  double timeout_s = 0.4;
  bool rank_1_writes = true;
  std::function<void()> before_the_hang = [] {};
};

/// How often files of a folder were opened to be read and closed again, from now on.
class ReadCounter {
 public:
  explicit ReadCounter(const std::string& folder) : fd_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    REQUIRE(::inotify_add_watch(fd_, folder.c_str(), IN_CLOSE_NOWRITE) >= 0);
  }
  ~ReadCounter() { ::close(fd_); }
  ReadCounter(const ReadCounter&) = delete;
  ReadCounter& operator=(const ReadCounter&) = delete;

  int64_t count() {
    alignas(inotify_event) std::array<char, 1 << 16> buffer;
    for (ssize_t size; (size = ::read(fd_, buffer.data(), buffer.size())) > 0;)
      for (ssize_t at = 0; at < size;) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
        if (event->len > 0) ++count_;  // else it was the folder itself
        at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      }
    return count_;
  }

 private:
  int fd_;
  int64_t count_ = 0;
};

}  // namespace

TEST_CASE("ranks that wait for another one are ended, and it is named") {
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

TEST_CASE("a trace that cannot be read is that of a silent rank, and ends no thread") {
  StuckRun stuck;
  stuck.rank_1_writes = false;
  stuck.before_the_hang = [&] { fs::create_directory(stuck.folder / "traces/rank_00001.txt"); };
  CHECK(stuck.run() == ExitCode::hang);
  CHECK_THAT(stuck.reported, Catch::Contains("  rank 1: silent, and left no trace\n"));
}

TEST_CASE("ranks read the traces at their turn, not all at once") {
  StuckRun stuck;
  stuck.ranks = 16;
  stuck.timeout_s = 2;
  std::optional<ReadCounter> reads;
  stuck.before_the_hang = [&] { reads.emplace(stuck.folder / "traces"); };
  CHECK(stuck.run() == ExitCode::hang);
  CHECK_THAT(stuck.reported, Catch::Contains("look at rank 1 first: "));
  CHECK(reads->count() >= 2 * 16);
  CHECK(reads->count() <= 4 * 2 * 16);  // of four ranks, should the first three be late
}

TEST_CASE("while a run starts, only a call that does not return is a hang") {
  TempFolder folder;
  Ending ending;
  const auto start = [&](Communicator& world) {
    // Rank 1 is in no call for ten times as long as it would stay in one.
    const Watchdog watchdog(world, {folder / "traces", world.rank() == 0 ? 1.0 : 0.1, ending.give_up(world)});
    if (world.rank() == 1) return ending.wait();
    world.barrier();
  };
  CHECK_THROWS_AS(run_ranks(2, start), Error);
  CHECK_THAT(ending.reported, Catch::StartsWith("the ranks hang while the run starts: rank 0 ("));
  CHECK_THAT(ending.reported, Catch::Contains(") waits in #0 world.barrier Byte 0 for 1."));
  CHECK_FALSE(fs::exists(folder / "traces"));
}

TEST_CASE("a hang while a library joins the ranks is reported as a call") {
  std::promise<std::string> reported;
  std::string report;
  const auto world = make_single_communicator();
  const Watchdog watchdog(*world, {"nowhere", 0.2, [&](const std::string& text) { reported.set_value(text); }});
  world->diagnostics().traced(Collective::join, [&] { report = reported.get_future().get(); });
  CHECK_THAT(report, Catch::Contains(") waits in #0 world.join Byte 0 for 0."));
}

TEST_CASE("ranks without a hang run on, and leave no traces") {
  TempFolder folder;
  folder.add("traces/rank_00007.txt", "of an earlier run");
  bool all_there = false;
  run_ranks(2, [&](Communicator& world) {
    const auto fail = [](const std::string&) { std::abort(); };
    Watchdog watchdog(world, {folder / "traces", 2, fail});
    watchdog.record(world);
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
  Watchdog watchdog(*world, {folder / "traces", 0, [](const std::string&) { std::abort(); }});
  watchdog.record(*world);
  CHECK_FALSE(fs::exists(folder / "traces"));
}

TEST_CASE("a folder without traces is said to be one") {
  TempFolder folder;
  CHECK_THROWS_WITH(compare_trace_folder(folder / "."), Catch::Contains("has no traces of ranks"));
}

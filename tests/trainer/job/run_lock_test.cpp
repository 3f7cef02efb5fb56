// A second run in one folder is refused, for exactly as long as the first one lives.
#include "trainer/job/run_lock.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "support/trainer_fixtures.h"
#include "trainer/job/environment.h"

namespace {

using namespace olmoe;
using namespace std::chrono_literals;

std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

/// Starts a process that does `work` and says when it has done it; then it waits to be killed.
class Holder {
 public:
  explicit Holder(const std::function<void()>& work) {
    int ends[2];
    ENSURE(::pipe(ends) == 0, "no pipe");
    child_ = ::fork();
    if (child_ == 0) {
      work();
      if (::write(ends[1], "x", 1) == 1) ::pause();
      ::_exit(1);
    }
    ::close(ends[1]);
    char done = 0;
    ENSURE(::read(ends[0], &done, 1) == 1, "the other process ended");
    ::close(ends[0]);
  }
  ~Holder() { kill(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  pid_t pid() const { return child_; }

 private:
  pid_t child_ = 0;
};

}  // namespace

TEST_CASE("a folder that a living process trains in is refused, with process, host and time") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = std::filesystem::path(folder.add("run/config.yaml", "x")).parent_path().string();
  Holder holder([&] { new RunLock(run); });
  const auto before = test::snapshot(run);
  for (const auto& text : {refusal([&] { RunLock(run, 100ms); }), refusal([&] { RunLock::check_free(run, 100ms); })})
    CHECK_THAT(text, Catch::StartsWith("run.folder: " + run + " is in use: process " + std::to_string(holder.pid()) +
                                       " on " + host_name() + ", since 20") &&
                         Catch::Contains("SIGTERM") && Catch::Contains("use another run.folder"));
  CHECK(test::snapshot(run) == before);
  const auto link = folder / "link";
  std::filesystem::create_directory_symlink(run, link);
  CHECK_THAT(refusal([&] { RunLock(link, 100ms); }), Catch::Contains("is in use"));  // the same folder by another name

  holder.kill();
  CHECK(std::filesystem::exists(run + "/run.lock"));  // of the killed one, and means nothing
  CHECK(refusal([&] { RunLock::check_free(run, 0ms); }) == "none");
  CHECK(refusal([&] { RunLock(run, 0ms); }) == "none");
}

TEST_CASE("the lock goes with its file, and one that is looked for leaves nothing") {
  const TempFolder folder;
  const auto run = folder / "run";
  RunLock::check_free(run, 0ms);  // not there yet
  CHECK_FALSE(std::filesystem::exists(run));
  std::filesystem::create_directory(run);
  RunLock::check_free(run, 0ms);
  CHECK(std::filesystem::is_empty(run));
  {
    const RunLock lock(run, 0ms);
    CHECK_THAT(read_text(run + "/run.lock"), Catch::StartsWith("process " + std::to_string(::getpid()) + " on "));
  }
  CHECK(std::filesystem::is_empty(run));
}

TEST_CASE("a lock whose file somebody replaced leaves the other one there") {
  const TempFolder folder;
  const auto path = folder / "run.lock";
  {
    const RunLock lock(folder / "", 0ms);
    std::filesystem::remove(path);
    folder.add("run.lock", "process 1 on another host\n");
  }
  CHECK(read_text(path) == "process 1 on another host\n");
}

TEST_CASE("a program that the run started and that outlives it does not hold the lock") {
  const TempFolder folder;
  const auto path = folder / ".";
  pid_t sleeper = 0;
  {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t run = ::fork();
    if (run == 0) {
      new RunLock(path);
      const pid_t started = ::fork();
      if (started == 0) ::execl("/bin/sleep", "sleep", "60", nullptr);
      const bool started_well = ::write(ends[1], &started, sizeof(started)) == sizeof(started);
      std::this_thread::sleep_for(300ms);  // until the other one runs its program
      ::_exit(started_well ? 0 : 1);
    }
    REQUIRE(::read(ends[0], &sleeper, sizeof(sleeper)) == sizeof(sleeper));
    REQUIRE(::waitpid(run, nullptr, 0) == run);
  }
  const auto text = refusal([&] { RunLock(path, 0ms); });
  CHECK(::kill(sleeper, SIGKILL) == 0);  // it lived until now
  CHECK(text == "none");
}

TEST_CASE("only one of many processes has the lock at a time") {
  const TempFolder folder;
  const auto path = folder / ".";
  std::atomic<int> inside = 0, most = 0, turns = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int turn = 0; turn < 5; ++turn) {
        const RunLock lock(path, 60s);
        most = std::max(most.load(), ++inside);
        std::this_thread::sleep_for(1ms);
        --inside;
        ++turns;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(turns == 20);
  CHECK(most == 1);
}

TEST_CASE("a trainer locks its folder before it writes there, and unlocks it at the end") {
  const TempFolder folder;
  const auto run = folder / "run";
  const auto config = test::tiny_run(run);
  const auto world = make_single_communicator();
  std::filesystem::create_directory(run);
  {
    Holder holder([&] { new RunLock(run); });
    const auto before = test::snapshot(run);
    CHECK_THAT(refusal([&] { Trainer(resolve_run(config, 1), *world); }), Catch::Contains("is in use"));
    CHECK(test::snapshot(run) == before);
  }
  Trainer trainer(resolve_run(config, 1), *world);
  CHECK(trainer.lock() != nullptr);
  CHECK_THAT(refusal([&] { RunLock(run, 0ms); }), Catch::Contains("is in use"));
  CHECK(trainer.run() == ExitCode::ok);
}

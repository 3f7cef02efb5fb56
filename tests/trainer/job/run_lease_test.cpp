// A second run in one folder is refused for as long as the first one lives, and a dead one is taken over once.
#include "trainer/job/run_lease.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <latch>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "support/catch.h"
#include "support/other_process.h"
#include "support/temp_folder.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace std::chrono_literals;
using test::OtherProcess;
using Clock = std::chrono::steady_clock;

constexpr LeaseTimes kFast{.renewal = 10ms, .expiry = 200ms, .settling = 1ms};
/// One that took over does not look again, which would hide that two did.
constexpr LeaseTimes kNotSettling{.renewal = 10ms, .expiry = 200ms, .settling = 0ms};
/// What a renewal or its lack decides is not decided in this test.
constexpr LeaseTimes kSlow{.renewal = 1h, .expiry = 2h, .settling = 1ms};

std::string message_of(const std::function<void()>& work, ExitCode code) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "none";
}
std::string refusal(const std::function<void()>& work) { return message_of(work, ExitCode::config); }
std::string loss(const RunLease& lease) {
  return message_of([&] { lease.ensure_held(); }, ExitCode::checkpoint);
}

/// Replaces the file as a takeover does.
void put(const std::string& folder, const LeaseRecord& record) {
  std::ofstream(folder + "/new", std::ios::binary) << record.text();
  std::filesystem::rename(folder + "/new", lease_path(folder));
}

LeaseRecord of_other_host() {
  auto record = LeaseRecord::of_this_process();
  record.holder.host = "node17";
  return record;
}

/// The record of a process of this host that has ended.
LeaseRecord of_dead_process() {
  auto record = LeaseRecord::of_this_process();
  record.holder.start_ticks -= 1;
  return record;
}

std::string read_lock(const std::string& folder) { return read_text(lease_path(folder)); }

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

bool mount_small_disk(const std::string& folder) {
  std::filesystem::create_directory(folder);
  const bool mounted = ::mount("none", folder.c_str(), "tmpfs", 0, "size=64k") == 0;
  if (!mounted) WARN("not tested: this user may mount no file system");
  return mounted;
}

void fill_disk(const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  while (file.write("0123456789abcdef", 16)) continue;
}

}  // namespace

TEST_CASE("the record of a lease reads back, and nothing else does") {
  auto record = LeaseRecord::of_this_process();
  for (int renewals : {0, 9, 99, 123456}) {
    record.renewals = renewals;
    const auto text = record.text();
    REQUIRE(text.size() == LeaseRecord::kBytes);
    const auto read = LeaseRecord::parse(text);
    REQUIRE(read);
    CHECK(read->holder == record.holder);
    CHECK(read->token == record.token);
    CHECK(read->renewals == renewals);
    CHECK(read->text() == text);
    CHECK_FALSE(LeaseRecord::parse(text + " "));
    CHECK_FALSE(LeaseRecord::parse(text.substr(1)));
  }
  CHECK(LeaseRecord::of_this_process().token != record.token);
  CHECK_FALSE(LeaseRecord::parse(""));
  CHECK_FALSE(LeaseRecord::parse("process 1 on another host\n"));
  CHECK_FALSE(LeaseRecord::parse(std::string(LeaseRecord::kBytes, ' ')));
}

TEST_CASE("a folder that a living process trains in is refused at once, with process, host and time") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = std::filesystem::path(folder.add("run/config.yaml", "x")).parent_path().string();
  OtherProcess holder([&] { put(run, LeaseRecord::of_this_process()); });
  const auto before = test::snapshot(run);
  const auto begin = Clock::now();
  for (const auto& text : {refusal([&] { RunLease lease(run); }), refusal([&] { RunLease::check_free(run); })})
    CHECK_THAT(text, Catch::StartsWith("run.folder: " + run + " is in use: process " + std::to_string(holder.pid()) +
                                       " on " + host_name() + ", since 20") &&
                         Catch::Contains("SIGTERM") && Catch::Contains("use another run.folder"));
  CHECK(Clock::now() - begin < 5s);  // a lease expires after 60
  CHECK(test::snapshot(run) == before);
  const auto link = folder / "link";
  std::filesystem::create_directory_symlink(run, link);
  CHECK_THAT(refusal([&] { RunLease lease(link); }), Catch::Contains("is in use"));  // the folder by another name

  holder.kill();
  CHECK(std::filesystem::exists(run + "/run.lock"));  // of the killed one, and means nothing
  CHECK(refusal([&] { RunLease::check_free(run); }) == "none");
  CHECK(refusal([&] { RunLease lease(run, kSlow); }) == "none");
  CHECK(names_in(run) == std::vector<std::string>{"config.yaml"});
}

TEST_CASE("the lease goes with its file, and one that is looked for leaves nothing") {
  const TempFolder folder;
  const auto run = folder / "run";
  RunLease::check_free(run);  // not there yet
  CHECK_FALSE(std::filesystem::exists(run));
  std::filesystem::create_directory(run);
  RunLease::check_free(run);
  CHECK(std::filesystem::is_empty(run));
  {
    const RunLease lease(run);
    CHECK_THAT(read_lock(run), Catch::StartsWith("process " + std::to_string(::getpid()) + " on "));
    lease.ensure_held();
    CHECK_THAT(refusal([&] { RunLease again(run); }), Catch::Contains("is in use"));
  }
  CHECK(std::filesystem::is_empty(run));
}

TEST_CASE("a lease is renewed in place") {
  const TempFolder folder;
  const RunLease lease(folder / ".", kFast);
  struct stat before {
  }, after{};
  REQUIRE(::stat((folder / "run.lock").c_str(), &before) == 0);
  while (LeaseRecord::parse(read_lock(folder / "."))->renewals < 3) std::this_thread::sleep_for(1ms);
  REQUIRE(::stat((folder / "run.lock").c_str(), &after) == 0);
  CHECK(before.st_ino == after.st_ino);
  CHECK(after.st_size == LeaseRecord::kBytes);
  lease.ensure_held();
}

TEST_CASE("a holder on another host is refused once it is seen to renew") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = folder / ".";
  auto record = of_other_host();
  put(run, record);
  std::atomic<bool> waits = true;
  std::thread other([&] {
    while (waits) {
      std::this_thread::sleep_for(20ms);
      record.renew();
      put(run, record);
    }
  });
  const auto begin = Clock::now();
  CHECK_THAT(refusal([&] { RunLease lease(run, {.expiry = 30s}); }), Catch::Contains(" on node17, since 20"));
  CHECK_THAT(refusal([&] { RunLease::check_free(run, {.expiry = 30s}); }), Catch::Contains(" on node17, since 20"));
  CHECK(Clock::now() - begin < 20s);
  waits = false;
  other.join();
}

TEST_CASE("a holder on another host that does not renew is taken over after the expiry, and not before") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = folder / ".";
  // What is no record, as of a process that died while it made the file, is judged by its changes too.
  for (const std::string& text :
       {of_other_host().text(), std::string(), std::string("process 1 on x, since today\n")}) {
    folder.add("run.lock", text);
    const auto begin = Clock::now();
    const auto watch = RunLease::check_free(run, kFast);
    CHECK(Clock::now() - begin >= kFast.expiry);
    CHECK(read_lock(run) == text);
    const auto checked = Clock::now();
    {
      const RunLease lease(watch);  // which need not wait again
      lease.ensure_held();
    }
    CHECK(Clock::now() - checked < 20s);
    CHECK(std::filesystem::is_empty(run));
  }
}

TEST_CASE("a holder that renewed after it was found dead is not taken over") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = folder / ".";
  auto record = of_other_host();
  put(run, record);
  const auto watch = RunLease::check_free(run, kFast);
  record.renew();
  put(run, record);
  CHECK_THAT(refusal([&] { RunLease lease(watch); }), Catch::Contains("is in use"));
  CHECK(read_lock(run) == record.text());
}

TEST_CASE("a process of this host that has ended is taken over at once, a reused number does not keep it alive") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = folder / ".";
  put(run, of_dead_process());  // this process has its number
  const auto begin = Clock::now();
  const RunLease lease(run);
  CHECK(Clock::now() - begin < 20s);
  lease.ensure_held();
}

TEST_CASE("of many that take over at once one wins") {
  log::set_level(log::Level::error);
  constexpr int kTrials = 200, kTakers = 3;
  const TempFolder folder;
  const auto run = folder / ".";
  const auto died_taking_over = GENERATE(false, true);
  for (int trial = 0; trial < kTrials; ++trial) {
    put(run, of_dead_process());
    if (died_taking_over) folder.add("run.lock.next", of_dead_process().text());
    std::atomic<int> holders = 0, refused = 0;
    std::latch ready(kTakers), over(kTakers);
    std::vector<std::thread> threads;
    for (int i = 0; i < kTakers; ++i)
      threads.emplace_back([&] {
        ready.arrive_and_wait();
        std::optional<RunLease> lease;
        try {
          lease.emplace(run, kNotSettling);
          ++holders;
        } catch (const ConfigError&) {
          ++refused;
        }
        over.arrive_and_wait();
      });
    for (auto& thread : threads) thread.join();
    REQUIRE(holders == 1);
    REQUIRE(refused == kTakers - 1);
    REQUIRE(std::filesystem::is_empty(run));
  }
}

TEST_CASE("only one of many has the lease at a time") {
  const TempFolder folder;
  const auto path = folder / ".";
  std::atomic<int> inside = 0, most = 0, turns = 0;
  const auto take_turn = [&] {
    try {
      const RunLease lease(path, kSlow);
      most = std::max(most.load(), ++inside);
      std::this_thread::sleep_for(1ms);
      --inside;
      ++turns;
    } catch (const ConfigError&) {
      std::this_thread::sleep_for(1ms);  // refused
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      while (turns < 20) take_turn();
    });
  for (auto& thread : threads) thread.join();
  CHECK(turns >= 20);
  CHECK(most == 1);
}

TEST_CASE("a holder whose file was taken over or removed saves nothing, and leaves the other's file there") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto run = folder / ".";
  const auto other = of_other_host();
  {
    const RunLease lease(run, kSlow);
    lease.ensure_held();
    CHECK_FALSE(lease.is_lost());
    put(run, other);
    CHECK_THAT(loss(lease), Catch::Contains(" is lost: it is now that of process " + std::to_string(other.holder.pid) +
                                            " on node17, since 20"));
    CHECK(lease.is_lost());
  }
  CHECK(read_lock(run) == other.text());
  std::filesystem::remove(lease_path(run));
  {
    const RunLease lease(run, kFast);
    std::filesystem::remove(lease_path(run));
    CHECK_THAT(loss(lease), Catch::Contains(" is lost: somebody removed it"));
    while (!lease.is_lost()) std::this_thread::sleep_for(1ms);
  }
  CHECK(std::filesystem::is_empty(run));
}

TEST_CASE("a lease that could not be renewed for too long is not relied on") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const RunLease lease(folder / ".", {.renewal = 1h, .expiry = 1h + 50ms, .settling = 1ms});
  while (loss(lease) == "none") std::this_thread::sleep_for(1ms);
  CHECK_THAT(loss(lease), Catch::Contains("was not renewed for 0.0") && Catch::Contains("s, more than 0.05"));
}

TEST_CASE("a lease is renewed on a full disk, and one that found no room is no lease until there is some") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto disk = folder / "disk";
  if (!mount_small_disk(disk)) return;
  {
    const RunLease lease(disk, kFast);
    fill_disk(disk + "/rest");
    CHECK(std::filesystem::space(disk).available == 0);
    const auto before = LeaseRecord::parse(read_lock(disk))->renewals;
    while (LeaseRecord::parse(read_lock(disk))->renewals < before + 3) std::this_thread::sleep_for(1ms);
    lease.ensure_held();
  }
  CHECK_FALSE(std::filesystem::exists(lease_path(disk)));
  fill_disk(disk + "/rest");
  {
    const RunLease lease(disk, kFast);
    CHECK_THAT(loss(lease), Catch::Contains("could not be written yet (No space left on device): nothing is saved"));
    std::filesystem::remove(disk + "/rest");
    while (loss(lease) != "none") std::this_thread::sleep_for(1ms);
    lease.ensure_held();
    fill_disk(disk + "/rest");
  }
  CHECK(names_in(disk) == std::vector<std::string>{"rest"});
  ::umount(disk.c_str());
}

TEST_CASE("a dead lease is taken over on a full disk once what its run left half-made is removed") {
  log::set_level(log::Level::error);
  const TempFolder folder;
  const auto disk = folder / "disk";
  if (!mount_small_disk(disk)) return;
  const auto dead = of_dead_process().text();
  std::ofstream(lease_path(disk), std::ios::binary) << dead;
  fill_disk(disk + "/half");
  REQUIRE(std::filesystem::space(disk).available == 0);
  CHECK_THROWS_AS(RunLease(LeaseWatch(lease_path(disk), kFast)), CheckpointError);
  CHECK(read_lock(disk) == dead);
  RunLease(LeaseWatch(lease_path(disk), kFast), [&] { std::filesystem::remove(disk + "/half"); }).ensure_held();
  CHECK(names_in(disk).empty());
  ::umount(disk.c_str());
}

TEST_CASE("a trainer takes the lease of its folder before it writes there, and gives it back at the end") {
  const TempFolder folder;
  const auto run = folder / "run";
  const auto config = test::tiny_run(run);
  const auto world = make_single_communicator();
  std::filesystem::create_directory(run);
  {
    OtherProcess holder([&] { put(run, LeaseRecord::of_this_process()); });
    const auto before = test::snapshot(run);
    CHECK_THAT(refusal([&] { Trainer(resolve_run(config, 1), *world); }), Catch::Contains("is in use"));
    CHECK(test::snapshot(run) == before);
  }
  {
    Trainer trainer(resolve_run(config, 1), *world);
    CHECK(trainer.lease() != nullptr);
    CHECK_THAT(refusal([&] { RunLease lease(run); }), Catch::Contains("is in use"));
    CHECK(trainer.run() == ExitCode::ok);
  }
  CHECK_FALSE(std::filesystem::exists(lease_path(run)));
}

TEST_CASE("a trainer that lost its lease commits nothing, and ends with the error of a checkpoint") {
  const TempFolder folder;
  const auto run = folder / "run";
  auto config = test::tiny_run(run);
  config.checkpoint.every_steps = 1;
  const auto world = make_single_communicator();
  Trainer trainer(resolve_run(config, 1), *world);
  put(run, of_other_host());
  CHECK_THAT(message_of([&] { trainer.run(); }, ExitCode::checkpoint), Catch::Contains(" on node17, since 20"));
  CHECK_FALSE(std::filesystem::exists(run + "/checkpoints/step_000000001"));
}

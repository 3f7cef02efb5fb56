// Which checkpoints are sent by the user's commands, in which order, how often, and what is known of them afterwards.
#include "trainer/checkpoint/checkpoint_sender.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/files.h"
#include "core/log.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;
using Steps = std::vector<int64_t>;

constexpr CheckpointSender::Times kShort{CheckpointSender::Seconds(0.01), CheckpointSender::Seconds(0.04),
                                         CheckpointSender::Seconds(0.5)};
const auto kStay = [] { return false; };

void wait_until(const std::function<bool()>& condition) {
  for (int i = 0; !condition(); ++i) {
    ENSURE(i < 6000, "waited a minute");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

/// A run's folder with made-up checkpoints, and another to send them to.
struct Run {
  explicit Run(const std::string& after_save, const std::string& verify_copy = "") {
    log::set_level(log::Level::error);
    fs::create_directories(folder / "run/checkpoints");
    fs::create_directories(folder / "remote");
    config.after_save = "cd '" + folder / "remote" + "'; " + after_save;
    if (!verify_copy.empty()) config.verify_copy = "cd '" + folder / "remote" + "'; " + verify_copy;
    config.after_save_tries = 3;
    config.after_save_wait_s = 60;
  }
  std::string step_folder(int64_t step) const { return folder / ("run/checkpoints/" + step_name(step)); }
  void save(int64_t step, const std::string& content = "a manifest") const {
    folder.add("run/checkpoints/" + step_name(step) + "/manifest.json", fmt::format("{} of {}", content, step));
  }
  std::unique_ptr<CheckpointSender> start(const CheckpointSender::Times& times = kShort, int64_t last = kMostSteps) {
    auto sender = std::make_unique<CheckpointSender>(folder / "run", config, *world, times);
    sender->start(last);
    return sender;
  }
  /// Sends all that is left.
  void send_all() { ENSURE(start()->finish(kStay), "it left early"); }
  std::string remote(const std::string& name) const { return read_text(folder / ("remote/" + name)); }
  bool has_remote(const std::string& name) const { return fs::exists(folder / ("remote/" + name)); }
  SendRecords records() const { return SendRecords::read(folder / "run/after_save.json"); }
  SendRecord record(int64_t step) const { return records().steps.at(step); }

  TempFolder folder;
  CheckpointConfig config;
  std::unique_ptr<Communicator> world = make_single_communicator();
};

const std::string kCopy = "cp -r \"$OLMOE_CHECKPOINT\" . && echo $OLMOE_STEP >> order";

}  // namespace

TEST_CASE("checkpoints are sent once, the oldest first, and a later start sends those that are new") {
  Run run(kCopy + " && test \"$OLMOE_RUN_FOLDER/checkpoints\" = \"$(dirname \"$OLMOE_CHECKPOINT\")\"");
  for (const int64_t step : {30, 9, 200}) run.save(step);
  run.folder.add("run/checkpoints/step_000000007/shard_00000.safetensors", "without a manifest");
  run.send_all();
  CHECK(run.remote("order") == "9\n30\n200\n");
  CHECK(run.remote("step_000000030/manifest.json") == "a manifest of 30");
  const auto record = run.record(30);
  CHECK(record.state == SendState::sent);
  CHECK(record.tries == 1);
  CHECK(record.last_end == "after_save: exit code 0");
  CHECK(record.changed.size() == 20);
  {
    const auto sender = run.start();
    run.save(300);
    sender->add(300);
    CHECK(sender->finish(kStay));
    CHECK_FALSE(sender->in_use(300));
  }
  run.save(30, "another one");  // an earlier record says that step 30 was sent
  run.send_all();
  CHECK(run.remote("order") == "9\n30\n200\n300\n30\n");
  CHECK(run.records().steps.size() == 4);
  CHECK_FALSE(run.records().running);
}

TEST_CASE("a run that has gone back forgets the later steps that it sent, and sends what it saves in their place") {
  Run run(kCopy);
  for (const int64_t step : {10, 20, 30}) run.save(step);
  run.send_all();
  for (const int64_t step : {20, 30}) fs::rename(run.step_folder(step), run.step_folder(step) + ".abandoned-1");
  const auto sender = run.start(kShort, /*last=*/10);
  CHECK(run.records().steps.size() == 1);
  CHECK(run.record(10).state == SendState::sent);
  run.save(20, "another");
  sender->add(20);
  CHECK(sender->finish(kStay));
  CHECK(run.remote("order") == "10\n20\n30\n20\n");
}

TEST_CASE("a link to a checkpoint elsewhere is not sent, and without a command nothing is") {
  Run run(kCopy);
  run.save(1);
  run.folder.add("elsewhere/manifest.json", "of 2");
  fs::create_directory_symlink(run.folder / "elsewhere", run.step_folder(2));
  run.send_all();
  CHECK(run.remote("order") == "1\n");
  run.config.after_save.clear();
  fs::remove(run.folder / "run/after_save.json");
  run.send_all();
  const auto sender = run.start();
  sender->add(1);
  CHECK_FALSE(sender->in_use(1));
  CHECK(sender->finish(kStay));
  CHECK_FALSE(fs::exists(run.folder / "run/after_save.json"));
}

TEST_CASE("a command that fails is tried again, and later steps wait for it") {
  Run run("echo $OLMOE_STEP >> tries; test $(wc -l < tries) -ge 3");
  run.save(1);
  run.save(2);
  run.send_all();
  CHECK(run.remote("tries") == "1\n1\n1\n2\n");
  CHECK(run.record(1).tries == 3);
  CHECK(run.record(1).state == SendState::sent);
  CHECK(run.record(2).tries == 1);
}

TEST_CASE("a step is given up after the last try, and the next start tries again") {
  Run run("echo $OLMOE_STEP >> tries; exit 7");
  run.save(1);
  run.save(2);
  run.config.delete_local = GENERATE(DeleteLocal::at_once, DeleteLocal::after_verified);
  const auto sender = run.start();
  CHECK(sender->finish(kStay));
  CHECK(run.remote("tries") == "1\n1\n1\n2\n2\n2\n");
  CHECK(run.record(1).state == SendState::failed);
  CHECK(run.record(1).tries == 3);
  CHECK(run.record(1).last_end == "after_save: exit code 7");
  CHECK(sender->in_use(1) == (run.config.delete_local == DeleteLocal::after_verified));
  run.config.after_save = "true";
  run.send_all();
  CHECK(run.record(1).state == SendState::sent);
  CHECK(run.record(1).tries == 1);
}

TEST_CASE("pauses between tries double up to the longest") {
  Run run("date +%s%N >> tries; exit 1");
  run.config.after_save_tries = 5;
  run.save(1);
  const auto sender = run.start({CheckpointSender::Seconds(0.1), CheckpointSender::Seconds(0.3), {}});
  CHECK(sender->finish(kStay));
  std::istringstream lines(run.remote("tries"));
  std::vector<double> pauses;
  double before = 0;
  for (int64_t ns = 0; lines >> ns; before = static_cast<double>(ns))
    if (before > 0) pauses.push_back((static_cast<double>(ns) - before) / 1e9);
  REQUIRE(pauses.size() == 4);
  CHECK(pauses[0] >= 0.1);
  CHECK(pauses[1] >= 0.2);
  CHECK(pauses[2] >= 0.3);
  CHECK(pauses[3] >= 0.3);
}

TEST_CASE("a command that hangs, ends its whole group or cannot be started counts as one that fails") {
  Run run("case $OLMOE_STEP in 1) sleep 600;; 2) kill -KILL 0;; *) exit 0;; esac");
  run.config.after_save_limit_s = 1;
  run.config.after_save_tries = 1;
  for (const int64_t step : {1, 2, 3}) run.save(step);
  SECTION("started") {
    run.send_all();
    CHECK(run.record(1).state == SendState::failed);
    CHECK(run.record(1).last_end == "after_save: its time limit");
    CHECK(run.record(2).state == SendState::failed);
    CHECK(run.record(2).last_end == "after_save: signal 9 (Killed)");
    CHECK(run.record(3).state == SendState::sent);
  }
  SECTION("not started") {
    fs::create_directory(run.folder / "run/after_save.log");  // where its output is to go
    run.send_all();
    for (const int64_t step : {1, 2, 3}) CHECK(run.record(step).state == SendState::failed);
  }
}

TEST_CASE("a step stays on the disk while it waits and while it is sent") {
  Run run("touch began_$OLMOE_STEP; while ! test -e go; do sleep 0.02; done");
  run.save(1);
  run.save(2);
  run.save(3);
  const auto sender = run.start();
  wait_until([&] { return run.has_remote("began_1"); });
  for (const int64_t step : {1, 2, 3}) CHECK(sender->in_use(step));
  CHECK(run.record(1).state == SendState::waiting);
  wait_until([&] { return run.records().running.has_value(); });
  CHECK(state_of(*run.records().running) == ProcessState::running);
  CHECK_FALSE(run.has_remote("began_2"));
  CHECK_FALSE(sender->in_use(4));
  run.folder.add("remote/go", "");
  CHECK(sender->finish(kStay));
  for (const int64_t step : {1, 2, 3}) CHECK_FALSE(sender->in_use(step));
}

TEST_CASE("with delete_local: after_verified a step stays until its copy is verified") {
  Run run(kCopy,
          "cmp \"$OLMOE_CHECKPOINT/manifest.json\" $(basename \"$OLMOE_CHECKPOINT\")/manifest.json && "
          "test $OLMOE_STEP != 2");
  run.config.delete_local = DeleteLocal::after_verified;
  for (const int64_t step : {1, 2, 3}) run.save(step);
  {
    const auto sender = run.start();
    CHECK(sender->finish(kStay));
    CHECK_FALSE(sender->in_use(1));
    CHECK(sender->in_use(2));
    CHECK_FALSE(sender->in_use(3));
    CHECK(sender->in_use(4));  // of which nothing is known
  }
  CHECK(run.record(1).state == SendState::verified);
  CHECK(run.record(1).last_end == "verify_copy: exit code 0");
  CHECK(run.record(2).state == SendState::failed);
  CHECK(run.record(2).last_end == "verify_copy: exit code 1");
  CHECK(run.remote("order") == "1\n2\n2\n2\n3\n");
  run.config.verify_copy = "true";
  const auto sender = run.start();
  CHECK(sender->finish(kStay));
  CHECK_FALSE(sender->in_use(1));
  CHECK_FALSE(sender->in_use(2));
  CHECK(run.remote("order") == "1\n2\n2\n2\n3\n2\n");
}

TEST_CASE("steps that were sent before verify_copy was set are verified by the next start") {
  Run run(kCopy);
  run.save(1);
  run.send_all();
  run.config.verify_copy = "true";
  run.send_all();
  CHECK(run.record(1).state == SendState::verified);
}

TEST_CASE("a step that is saved again while it is sent is sent again") {
  Run run("touch began; while ! test -e go; do sleep 0.02; done; " + kCopy);
  run.save(1, "the first");
  const auto sender = run.start();
  wait_until([&] { return run.has_remote("began"); });
  run.save(1, "the second");
  sender->add(1);
  run.folder.add("remote/go", "");
  CHECK(sender->finish(kStay));
  CHECK(run.remote("order") == "1\n1\n");
  CHECK(run.remote("step_000000001/manifest.json") == "the second of 1");
  CHECK(run.record(1).state == SendState::sent);
}

TEST_CASE("a step whose folder is gone is given up, and the others are sent") {
  Run run("touch began; while ! test -e go; do sleep 0.02; done; " + kCopy);
  run.save(1);
  run.save(2);
  run.save(3);
  const auto sender = run.start();
  wait_until([&] { return run.has_remote("began"); });
  fs::remove_all(run.step_folder(2));
  run.folder.add("remote/go", "");
  CHECK(sender->finish(kStay));
  CHECK(run.remote("order") == "1\n3\n");
  CHECK(run.record(2).state == SendState::failed);
}

TEST_CASE("the end of a run ends its command, and the next start sends that step again") {
  Run run("touch began; trap 'touch ended; exit 1' TERM; while ! test -e go; do sleep 0.02; done; " + kCopy);
  run.save(1);
  {
    const auto sender = run.start();
    wait_until([&] { return run.has_remote("began"); });
    CHECK_FALSE(sender->finish([] { return true; }));
  }
  CHECK(run.has_remote("ended"));
  CHECK(run.record(1).state == SendState::waiting);
  CHECK(run.record(1).last_end == "after_save: the end of the run");
  CHECK_FALSE(run.records().running);
  run.folder.add("remote/go", "");
  run.send_all();
  CHECK(run.record(1).state == SendState::sent);
}

TEST_CASE("a command that a killed run left on this host is ended by the next start, before it sends") {
  Run run("cp \"$OLMOE_CHECKPOINT/manifest.json\" copy");
  run.save(1);
  ChildProcess left({.text = "sleep 600", .output = run.folder / "left"});
  auto records = SendRecords{};
  records.running = left.identity();
  records.write(run.folder / "run/after_save.json");
  run.send_all();
  CHECK(left.poll().has_value());
  CHECK(run.remote("copy") == "a manifest of 1");
}

TEST_CASE("a run waits at its end for as long as it is told") {
  Run run("sleep 600");
  run.save(1);
  run.config.after_save_wait_s = 0;
  const auto sender = run.start();
  CHECK(sender->finish(kStay));
  CHECK(sender->in_use(1));
}

TEST_CASE("what was sent is not known where the file is damaged or cannot be written, and everything is sent") {
  Run run(kCopy);
  run.save(1);
  run.send_all();
  const auto path = run.folder / "run/after_save.json";
  SECTION("damaged") {
    const std::string text = GENERATE("{\"version\":1,\"runn", "{\"version\":2,\"running\":null,\"steps\":[]}",
                                      "{\"version\":1,\"running\":null,\"steps\":[{\"step\":1}]}");
    run.folder.add("run/after_save.json", text);
    run.send_all();
    CHECK(read_text(path + ".damaged-1") == text);
    CHECK(run.record(1).state == SendState::sent);
  }
  SECTION("a folder") {
    fs::remove(path);
    fs::create_directory(path);
    run.send_all();
    CHECK(fs::is_directory(path));
  }
  CHECK(run.remote("order") == "1\n1\n");
}

TEST_CASE("the file is JSON, with a line for each step") {
  Run run("test $OLMOE_STEP = 1");
  run.config.after_save_tries = 1;
  run.save(1);
  run.save(2);
  run.send_all();
  const auto text = read_text(run.folder / "run/after_save.json");
  const auto json = nlohmann::json::parse(text);
  CHECK(json["running"].is_null());
  REQUIRE(json["steps"].size() == 2);
  CHECK(json["steps"][0]["state"] == "sent");
  CHECK(json["steps"][1]["state"] == "failed");
  CHECK(json["steps"][1]["last_end"] == "after_save: exit code 1");
  CHECK(std::ranges::count(text, '\n') == 4);
}

TEST_CASE("what the commands print is kept, with a line before each") {
  Run run("echo copied", "echo looked >&2");
  run.save(5);
  run.send_all();
  const auto text = read_text(run.folder / "run/after_save.log");
  CHECK_THAT(text, Catch::Contains(" step 5, after_save, try 1\ncopied\n") &&
                       Catch::Contains(" step 5, verify_copy, try 1\nlooked\n"));
}

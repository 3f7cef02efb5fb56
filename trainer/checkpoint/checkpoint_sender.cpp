#include "trainer/checkpoint/checkpoint_sender.h"

#include <fcntl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/log.h"
#include "core/process/threads.h"
#include "core/stopwatch.h"
#include "parallel/agreement.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

constexpr auto kLook = std::chrono::milliseconds(200);  // between two looks at the queue at the end of a run
constexpr size_t kManyWaiting = 3;
// Of MPI and its launchers: a program that a command starts must not take itself for a rank of this run.
const std::vector<std::string> kOfRanks{"OMPI_",       "PMIX_",       "PMI_",         "MV2_",       "RANK",
                                        "LOCAL_RANK",  "GROUP_RANK",  "ROLE_",        "WORLD_SIZE", "LOCAL_WORLD_SIZE",
                                        "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_"};

/// Marks the begin of a command's output.
void write_heading(const std::string& path, const std::string& heading) {
  try {
    const auto line = fmt::format("--- {} {}\n", utc_now(), heading);
    FileDescriptor(path, O_WRONLY | O_CREAT | O_APPEND).write_all(std::as_bytes(std::span(line)));
  } catch (const FileError&) {
    return;  // a full disk is no reason not to send
  }
}

/// "step 10, 20 and 3 more"
std::string steps_text(const std::set<int64_t>& steps) {
  constexpr size_t kMost = 10;
  const bool all = steps.size() <= kMost;
  const auto end = all ? steps.end() : std::next(steps.begin(), kMost);
  return fmt::format("step {}{}", fmt::join(steps.begin(), end, ", "),
                     all ? "" : fmt::format(" and {} more", steps.size() - kMost));
}

/// False where the file system does not say: then the command does.
bool is_gone(const std::string& step_folder) {
  std::error_code unknown;
  return fs::status(step_folder + "/manifest.json", unknown).type() == fs::file_type::not_found;
}

/// Empty where it cannot be read: then the next start sends that step again.
std::string hash_manifest(const std::string& step_folder) {
  try {
    return hash_file(step_folder + "/manifest.json");
  } catch (const FileError& error) {
    log::warn("{}: the next start sends it again", error.what());
    return {};
  }
}

}  // namespace

CheckpointSender::CheckpointSender(const std::string& run_folder, const CheckpointConfig& config, Communicator& world,
                                   Times times)
    : run_folder_(fs::absolute(run_folder).lexically_normal().string()),
      config_(config),
      world_(world),
      times_(times) {}

CheckpointSender::~CheckpointSender() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (!waiting_.empty())
    log::warn("not sent by checkpoint.after_save: {}. The next start of this run sends it", waiting_steps());
  if (const auto steps = given_up(); !steps.empty())
    log::warn("not sent by checkpoint.after_save after {} tries: {}. The next start of this run tries again",
              config_.after_save_tries, steps_text(steps));
}

void CheckpointSender::start(int64_t step) {
  if (!sends()) return;
  agree(world_, [&] {
    if (world_.rank() != 0) return;
    open(step);
    thread_ = start_thread<std::thread>("the thread that sends checkpoints", [this] { work(); });
  });
}

/// Of steps that this run no longer has, copies may be elsewhere.
void CheckpointSender::forget_later_than(int64_t step) {
  std::set<int64_t> sent;
  for (auto later = records_.steps.upper_bound(step); later != records_.steps.end();) {
    const auto state = later->second.state;
    if (state == SendState::sent || state == SendState::verified) sent.insert(later->first);
    later = records_.steps.erase(later);
  }
  if (!sent.empty())
    log::warn("{} were sent, and this run resumes from step {}: remove these copies, or do not restore them",
              steps_text(sent), step);
}

/// Reads what earlier starts noted, and queues what they did not send.
void CheckpointSender::open(int64_t step) {
  try {
    records_ = SendRecords::read(run_folder_ + "/after_save.json");
  } catch (const FileError& error) {
    log::warn("{}: all checkpoints of this run count as not sent", error.what());
  }
  if (records_.running && end_process_group(*records_.running, times_.grace))
    log::warn("ended process {}, a command of checkpoint.after_save that an earlier start of this run had left",
              records_.running->pid);
  records_.running.reset();
  forget_later_than(step);
  const auto is_done = [&](const SendRecord& record) {
    return record.state == SendState::verified || (record.state == SendState::sent && config_.verify_copy.empty());
  };
  for (const auto saved : complete_steps(run_folder_ + "/checkpoints")) {
    std::error_code unknown;
    if (fs::is_symlink(step_folder(saved), unknown)) continue;  // a checkpoint that is elsewhere already
    const auto found = records_.steps.find(saved);
    const auto hash = hash_manifest(step_folder(saved));
    if (found != records_.steps.end() && !hash.empty() && found->second.manifest_hash == hash && is_done(found->second))
      continue;
    records_.steps[saved] = {.manifest_hash = hash, .changed = utc_now()};
    waiting_.insert(saved);
  }
  if (!waiting_.empty()) log::info("to be sent by checkpoint.after_save: {}", waiting_steps());
  write();
}

void CheckpointSender::add(int64_t step) {
  if (!sends()) return;
  const auto hash = hash_manifest(step_folder(step));
  size_t waiting = 0;
  change([&] {
    records_.steps[step] = {.manifest_hash = hash, .changed = utc_now()};
    waiting_.insert(step);
    waiting = waiting_.size();
  });
  if (waiting > kManyWaiting)
    log::warn(
        "{} checkpoints wait to be sent and stay on the disk: checkpoint.after_save is slower than saving, or fails",
        waiting);
}

bool CheckpointSender::in_use(int64_t step) const {
  if (!sends()) return false;
  const std::lock_guard lock(mutex_);
  if (waiting_.contains(step)) return true;
  if (config_.delete_local == DeleteLocal::at_once) return false;
  const auto found = records_.steps.find(step);
  return found == records_.steps.end() || found->second.state != SendState::verified;
}

bool CheckpointSender::finish(const std::function<bool()>& leave) {
  struct Seen {
    bool waits, leaves;
  };
  if (!sends()) return true;
  const Stopwatch watch;
  const auto limit_s = static_cast<double>(config_.after_save_wait_s);
  for (bool said = false;; std::this_thread::sleep_for(kLook)) {
    std::string steps;
    {
      const std::lock_guard lock(mutex_);
      if (!waiting_.empty()) steps = waiting_steps();
    }
    const bool late = watch.elapsed_s() > limit_s;
    const Seen mine{!steps.empty() && !late, leave()};
    const auto all = gather_records<Seen>(world_, {&mine, 1});
    if (!all.front().waits) {
      if (!steps.empty()) log::warn("waited {} s for checkpoints that are not sent", config_.after_save_wait_s);
      return true;
    }
    if (std::ranges::any_of(all, &Seen::leaves)) return false;
    if (!said && !steps.empty())
      log::info("waiting up to {} s until checkpoint.after_save has sent {}", config_.after_save_wait_s, steps);
    said = true;
  }
}

void CheckpointSender::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
    if (ended_) return;
    const auto step = *waiting_.begin();
    lock.unlock();
    send(step);
    lock.lock();
  }
}

/// Sends one step, or gives it up. Returns early where this object ends, or the step was saved again.
void CheckpointSender::send(int64_t step) {
  const auto hash = manifest_hash(step);
  auto pause = times_.first_pause;
  for (int64_t tries = 1;; ++tries) {
    if (is_gone(step_folder(step))) {
      log::warn("step {} is not sent: {} is gone", step, step_folder(step));
      return leave_queue(step, hash, SendState::failed);
    }
    const auto problem = attempt(step, tries);
    if (problem.empty())
      return leave_queue(step, hash, config_.verify_copy.empty() ? SendState::sent : SendState::verified);
    if (ended_ || manifest_hash(step) != hash) return;
    if (tries == config_.after_save_tries) {
      log::warn(
          "step {} is not sent: {}. It was the last of {}. Training goes on, and the next start of this run tries "
          "again. What the command said: {}/after_save.log",
          step, problem, tries == 1 ? "1 try" : fmt::format("{} tries", tries), run_folder_);
      return leave_queue(step, hash, SendState::failed);
    }
    log::warn(
        "step {} is not sent yet: {} (try {} of {}, the next in {:.3g} s). What the command said: "
        "{}/after_save.log",
        step, problem, tries, config_.after_save_tries, pause.count(), run_folder_);
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, pause, [&] { return ended_ || records_.steps[step].manifest_hash != hash; })) return;
    pause = std::min(2 * pause, times_.longest_pause);
  }
}

/// One try: the problem, or none.
std::string CheckpointSender::attempt(int64_t step, int64_t tries) {
  const std::array<std::pair<std::string, std::string>, 2> commands{
      {{"after_save", config_.after_save}, {"verify_copy", config_.verify_copy}}};
  for (const auto& [key, text] : commands) {
    if (text.empty()) continue;
    try {
      const Stopwatch watch;
      const auto end = run(key, text, step, tries);
      if (!end.succeeded()) return fmt::format("checkpoint.{} ended with {}", key, end.describe());
      log::info("step {}: checkpoint.{} done in {:.2f} s", step, key, watch.elapsed_s());
    } catch (const std::exception& error) {
      return fmt::format("checkpoint.{}: {}", key, error.what());
    }
  }
  return {};
}

ProcessEnd CheckpointSender::run(const std::string& key, const std::string& text, int64_t step, int64_t tries) {
  const auto output = run_folder_ + "/after_save.log";
  write_heading(output, fmt::format("step {}, {}, try {}", step, key, tries));
  const Stopwatch watch;
  ChildProcess process({.text = text,
                        .output = output,
                        .variables = {{"OLMOE_CHECKPOINT", step_folder(step)},
                                      {"OLMOE_STEP", std::to_string(step)},
                                      {"OLMOE_RUN_FOLDER", run_folder_}},
                        .without = kOfRanks});
  change([&] {
    records_.running = process.identity();
    records_.steps[step].tries = tries;
  });
  const auto end = process.wait(Seconds(static_cast<double>(config_.after_save_limit_s)), times_.grace,
                                [&] { return ended_.load(); });
  change([&] {
    records_.running.reset();
    auto& record = records_.steps[step];
    record.last_end = fmt::format("{}: {}", key, end.describe());
    record.seconds = watch.elapsed_s();
    record.changed = utc_now();
  });
  return end;
}

std::string CheckpointSender::manifest_hash(int64_t step) const {
  const std::lock_guard lock(mutex_);
  return records_.steps.at(step).manifest_hash;
}

/// Unless the step was saved again meanwhile: then it is sent again.
void CheckpointSender::leave_queue(int64_t step, const std::string& hash, SendState state) {
  change([&] {
    auto& record = records_.steps[step];
    if (record.manifest_hash != hash) return;
    record.state = state;
    record.changed = utc_now();
    waiting_.erase(step);
  });
}

/// Changes the records, and writes them.
void CheckpointSender::change(const std::function<void()>& work) {
  {
    const std::lock_guard lock(mutex_);
    work();
    write();
  }
  changed_.notify_all();
}

/// What cannot be written is written with the next change.
void CheckpointSender::write() {
  try {
    records_.write(run_folder_ + "/after_save.json");
    writes_fail_ = false;
  } catch (const std::exception& error) {
    if (!writes_fail_) log::warn("{}. A later start may send checkpoints again that were sent", error.what());
    writes_fail_ = true;
  }
}

std::string CheckpointSender::step_folder(int64_t step) const {
  return fmt::format("{}/checkpoints/{}", run_folder_, step_name(step));
}

std::string CheckpointSender::waiting_steps() const { return steps_text(waiting_); }

/// Steps of the folder that were tried as often as they may be.
std::set<int64_t> CheckpointSender::given_up() const {
  std::set<int64_t> steps;
  for (const auto& [step, record] : records_.steps)
    if (record.state == SendState::failed && !is_gone(step_folder(step))) steps.insert(step);
  return steps;
}

}  // namespace olmoe

#include "trainer/job/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/process/process_identity.h"
#include "core/process/threads.h"
#include "parallel/agreement.h"
#include "trainer/job/environment.h"
#include "trainer/job/preemption.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;

constexpr double kBeatsATimeout = 20, kLongestBeat_s = 5, kTick_s = 0.25;
// A longer time between two ticks means that the process was stopped; load alone does not delay a thread so much.
constexpr double kStopped_s = 2;
// Beats without a change of its file after which a rank is silent.
constexpr int64_t kSilentBeats = 3;
// Beats between the turns of ranks to compare; a comparison takes kSilentBeats.
constexpr int64_t kTurnBeats = 4;
constexpr auto kPatience = std::chrono::seconds(10);
constexpr int kAttempts = 5;
constexpr auto kPause = std::chrono::milliseconds(10);

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string trace_path(const std::string& folder, int rank) { return fmt::format("{}/rank_{:05}.txt", folder, rank); }

/// Files are written in place, because NFS shows a renamed file late to other hosts. A file may thus be read half
/// written.
std::optional<RankTrace> read_trace(const std::string& path) {
  std::optional<RankTrace> trace;
  for (int attempt = 0; attempt < kAttempts && !trace; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kPause);
    std::ifstream file(path);
    if (!file) break;
    std::ostringstream text;
    text << file.rdbuf();  // where reading fails, an iterator would throw
    trace = RankTrace::parse(text.str());
  }
  return trace;
}

/// Rank 0 compares first, then 1, then 2 and 3, then 4 to 7 and so on: each reads the files of all ranks, and thousands
/// at once would overload the file system.
int64_t beats_before_turn(int rank) { return kTurnBeats * std::bit_width(static_cast<unsigned>(rank)); }

double beat_s(double timeout_s) { return std::min(timeout_s / kBeatsATimeout, kLongestBeat_s); }

}  // namespace

Watchdog::Watchdog(const Communicator& ranks, Options options)
    : options_(std::move(options)),
      rank_(ranks.rank()),
      size_(ranks.size()),
      trace_(ranks.diagnostics().trace()),
      exceptions_(std::uncaught_exceptions()) {
  if (options_.timeout_s <= 0) return;
  mine_.rank = rank_;
  mine_.host = host_name();
  mine_.pid = ::getpid();
  thread_ = start_thread<std::thread>("the thread of the watchdog", [this] { watch(); });
}

void Watchdog::record(Communicator& ranks) {
  if (options_.timeout_s <= 0) return;
  agree(ranks, [&] {
    if (rank_ != 0) return;
    std::error_code error;
    fs::remove_all(options_.folder, error);
    if (!error) fs::create_directories(options_.folder, error);
    if (error) throw ConfigError(fmt::format("run.folder: {} cannot be made: {}", options_.folder, error.message()));
  });
  {
    std::lock_guard lock(mutex_);
    recording_ = true;
  }
  changed_.notify_all();
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (!recording_) return;
  if (std::uncaught_exceptions() > exceptions_) {
    write();
    return;
  }
  std::error_code not_there;
  fs::remove(trace_path(options_.folder, rank_), not_there);
  fs::remove(options_.folder, not_there);  // succeeds for the last rank, when the folder is empty
}

void Watchdog::watch() {
  const double beat = beat_s(options_.timeout_s), tick = std::min(beat, kTick_s);
  double since_beat_s = beat;
  auto reasons = std::pair(false, false);
  auto awake_at = Clock::now();
  do {
    // A process that was stopped knows nothing of the others meanwhile: the watch starts again.
    if (seconds_since(awake_at) > kStopped_s) watching_since_ = Clock::now();
    awake_at = Clock::now();
    // The signal may be the launcher's, which ends all ranks because one failed: what is written now remains.
    const auto before = std::exchange(reasons, {preemption::requested() != 0, recording_.load()});
    if (since_beat_s >= beat || reasons != before) {
      write();
      if (const auto report = verdict()) return options_.give_up(*report);
      since_beat_s = 0;
    }
    since_beat_s += tick;
  } while (sleep(tick, reasons.second));
}

/// Returns early when recording begins. False once the watchdog ends.
bool Watchdog::sleep(double seconds, bool was_recording) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                    [&] { return ended_ || recording_ != was_recording; });
  return !ended_;
}

/// Where the folder cannot be written, this rank is silent for the others, which must not end a run that trains.
void Watchdog::write() {
  mine_.beat += 1;
  mine_.calls = trace_->calls();
  if (recording_) std::ofstream(trace_path(options_.folder, rank_)) << mine_.text();
}

Watchdog::Traces Watchdog::read_all() const {
  Traces traces;
  for (int rank = 0; rank < size_; ++rank)
    if (auto trace = read_trace(trace_path(options_.folder, rank))) traces.emplace(rank, std::move(*trace));
  return traces;
}

/// The report, once this rank hangs and has its turn to report; none before.
std::optional<std::string> Watchdog::verdict() {
  const bool waits = std::ranges::any_of(mine_.calls, [](const TracedCall& call) { return !call.finished; });
  const double quiet_s = std::min(trace_->quiet_s(), seconds_since(watching_since_));
  if (quiet_s < options_.timeout_s || !(waits || recording_)) {
    stuck_beats_ = 0;
    return {};
  }
  if (!recording_) return where_it_waits();
  const int64_t beats = stuck_beats_++ - beats_before_turn(rank_);
  if (beats == 0) before_ = read_all();
  if (beats < kSilentBeats) return {};
  const auto path = options_.folder + "/report.txt";
  std::error_code unclear;
  if (fs::exists(path, unclear)) return fmt::format("the ranks hang: see {}", path);
  const auto report = compare();
  std::ofstream(path) << report;
  return report;
}

/// The report of a call that has not returned while the run starts.
std::string Watchdog::where_it_waits() const {
  const auto call = std::ranges::find(mine_.calls, false, &TracedCall::finished);
  return fmt::format("the ranks hang while the run starts: rank {} ({}, pid {}) waits in #{} {} {} for {:.1f} s", rank_,
                     mine_.host, mine_.pid, call->sequence, call->what, call->elements, call->since_s);
}

/// Compares the calls of all ranks. A rank whose file has not changed since before_ is silent.
std::string Watchdog::compare() const {
  std::vector<RankTrace> alive;
  std::vector<SilentRank> silent;
  auto now = read_all();
  now.insert_or_assign(rank_, mine_);
  for (int rank = 0; rank < size_; ++rank) {
    const auto trace = now.find(rank);
    const auto before = before_.find(rank);
    if (trace == now.end()) {
      silent.push_back({rank, {}});
    } else if (rank != rank_ && before != before_.end() && before->second.beat == trace->second.beat) {
      silent.push_back({rank, trace->second});
    } else {
      alive.push_back(trace->second);
    }
  }
  return fmt::format("the ranks hang: no collective call of rank {} began or returned for {:.1f} s\n{}", rank_,
                     trace_->quiet_s(), compare_traces(alive, silent));
}

std::string compare_trace_folder(const std::string& folder) {
  std::map<int, RankTrace> traces;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".txt")
      if (auto trace = read_trace(entry.path().string())) traces.emplace(trace->rank, std::move(*trace));
  if (traces.empty()) throw Error(fmt::format("{} has no traces of ranks (rank_00000.txt, ...)", folder));
  std::vector<RankTrace> ranks;
  for (auto& [rank, trace] : traces) ranks.push_back(std::move(trace));
  return compare_traces(ranks, {});
}

std::unique_ptr<Watchdog> watch_run(const RunConfig& run, Communicator& world) {
  const auto give_up = [&world](const std::string& report) {
    end_within(kPatience, ExitCode::hang);
    log::error("{}", report);
    world.abort(static_cast<int>(ExitCode::hang));
  };
  return std::make_unique<Watchdog>(
      world, Watchdog::Options{run.folder + "/traces", static_cast<double>(run.hang_timeout_s), give_up});
}

}  // namespace olmoe

#include "trainer/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "trainer/agreement.h"
#include "trainer/environment.h"
#include "trainer/preemption.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;

constexpr double kBeatsATimeout = 20, kLongestBeat_s = 5, kTick_s = 0.25;
// From one tick to the next: longer than any load of the machine makes a thread wait.
constexpr double kStopped_s = 2;
// A rank whose file did not change for so many beats is silent.
constexpr int64_t kSilentBeats = 3;
// The lowest rank that lives speaks; the next ones after so many beats each, should it not.
constexpr int64_t kTurnBeats = 4, kMostTurns = 5;
constexpr auto kPatience = std::chrono::seconds(10);
constexpr int kAttempts = 5;
constexpr auto kPause = std::chrono::milliseconds(10);

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string trace_path(const std::string& folder, int rank) { return fmt::format("{}/rank_{:05}.txt", folder, rank); }

/// Files are written in place, for NFS shows others a renamed one late: so one may be read while it is half written.
std::optional<RankTrace> read_trace(const std::string& path) {
  std::optional<RankTrace> trace;
  for (int attempt = 0; attempt < kAttempts && !trace; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kPause);
    std::ifstream file(path);
    if (!file) break;
    trace = RankTrace::parse({std::istreambuf_iterator<char>(file), {}});
  }
  return trace;
}

[[noreturn]] void end_hung_job(Communicator& ranks) {
  std::thread([&ranks] { ranks.abort(static_cast<int>(ExitCode::hang)); }).detach();
  std::this_thread::sleep_for(kPatience);
  std::_Exit(static_cast<int>(ExitCode::hang));
}

double beat_s(double timeout_s) { return std::min(timeout_s / kBeatsATimeout, kLongestBeat_s); }

}  // namespace

Watchdog::Watchdog(Communicator& ranks, Options options)
    : options_(std::move(options)),
      rank_(ranks.rank()),
      size_(ranks.size()),
      trace_(ranks.shared_trace()),
      exceptions_(std::uncaught_exceptions()) {
  if (options_.timeout_s <= 0) return;
  agree(ranks, [&] {
    if (rank_ != 0) return;
    std::error_code error;
    fs::remove_all(options_.folder, error);
    if (!error) fs::create_directories(options_.folder, error);
    if (error) throw ConfigError(fmt::format("run.folder: {} cannot be made: {}", options_.folder, error.message()));
  });
  mine_.rank = rank_;
  mine_.host = host_name();
  mine_.pid = ::getpid();
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ending_.notify_all();
  thread_.join();
  if (std::uncaught_exceptions() > exceptions_) {
    write();
    return;
  }
  std::error_code not_there;
  fs::remove(trace_path(options_.folder, rank_), not_there);
  fs::remove(options_.folder, not_there);  // by the last rank: before, it is not empty
}

void Watchdog::watch() {
  const double beat = beat_s(options_.timeout_s), tick = std::min(beat, kTick_s);
  double since_beat_s = beat;
  bool was_asked = false;
  auto awake_at = Clock::now();
  do {
    // Who was stopped for a while cannot tell whether the others went on: it starts to watch anew.
    if (seconds_since(awake_at) > kStopped_s) watching_since_ = Clock::now();
    awake_at = Clock::now();
    // A signal may be the launcher's, which ends all because a rank died: what is written now is what will be left.
    const bool asked = preemption::requested();
    if (since_beat_s >= beat || asked != was_asked) {
      write();
      if (const auto report = verdict()) return options_.give_up(*report);
      since_beat_s = 0;
      was_asked = asked;
    }
    since_beat_s += tick;
  } while (sleep(tick));
}

/// False once this is to end.
bool Watchdog::sleep(double seconds) {
  std::unique_lock lock(mutex_);
  return !ending_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return ended_; });
}

/// Where the folder cannot be written, this rank is silent for the others; that must not end a run that trains.
void Watchdog::write() {
  mine_.beat += 1;
  mine_.calls = trace_->calls();
  std::ofstream(trace_path(options_.folder, rank_)) << mine_.text();
}

Watchdog::Traces Watchdog::read_all() const {
  Traces traces;
  for (int rank = 0; rank < size_; ++rank)
    if (auto trace = read_trace(trace_path(options_.folder, rank))) traces.emplace(rank, std::move(*trace));
  return traces;
}

/// The comparison, once this rank is stuck for long enough to know who lives, and it is its turn to speak.
std::optional<std::string> Watchdog::verdict() {
  if (std::min(trace_->quiet_s(), seconds_since(watching_since_)) < options_.timeout_s) {
    stuck_beats_ = 0;
    return {};
  }
  if (stuck_beats_++ == 0) first_ = read_all();
  if (stuck_beats_ <= kSilentBeats) return {};
  std::vector<RankTrace> alive;
  std::vector<SilentRank> silent;
  auto now = read_all();
  now.insert_or_assign(rank_, mine_);
  int64_t place = 0;
  for (int rank = 0; rank < size_; ++rank) {
    const auto trace = now.find(rank), before = first_.find(rank);
    if (trace == now.end()) {
      silent.push_back({rank, {}});
    } else if (rank != rank_ && before != first_.end() && before->second.beat == trace->second.beat) {
      silent.push_back({rank, trace->second});
    } else {
      place += rank < rank_ ? 1 : 0;
      alive.push_back(trace->second);
    }
  }
  if (stuck_beats_ <= kSilentBeats + kTurnBeats * std::min(place, kMostTurns)) return {};
  const auto path = options_.folder + "/report.txt";
  if (fs::exists(path)) return fmt::format("the ranks hang: see {}", path);
  auto report = fmt::format("the ranks hang: no collective call of rank {} began or returned for {:.1f} s\n{}", rank_,
                            trace_->quiet_s(), compare_traces(alive, silent));
  std::ofstream(path) << report;
  return report;
}

std::string compare_trace_folder(const std::string& folder) {
  std::map<int, RankTrace> traces;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".txt")
      if (auto trace = read_trace(entry.path().string())) traces.emplace(trace->rank, std::move(*trace));
  if (traces.empty()) throw Error(fmt::format("{} holds no traces of ranks (rank_00000.txt, ...)", folder));
  std::vector<RankTrace> ranks;
  for (auto& [rank, trace] : traces) ranks.push_back(std::move(trace));
  return compare_traces(ranks, {});
}

std::unique_ptr<Watchdog> watch_run(const RunConfig& run, Communicator& ranks) {
  const auto give_up = [&ranks](const std::string& report) {
    log::error("{}", report);
    end_hung_job(ranks);
  };
  return std::make_unique<Watchdog>(
      ranks, Watchdog::Options{run.folder + "/traces", static_cast<double>(run.hang_timeout_s), give_up});
}

}  // namespace olmoe

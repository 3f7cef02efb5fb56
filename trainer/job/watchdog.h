#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "parallel/collectives/communicator.h"
#include "parallel/collectives/trace_comparison.h"
#include "trainer/config/config_sections.h"

namespace olmoe {

/// Notices that the ranks hang, on a thread of its own, and gives up for all. It makes no collective call itself, so it
/// works whatever the ranks wait in. While a run starts, ranks hang when one call of this rank does not return for
/// `timeout_s`; what a rank does between calls may take any time there, and no file is written. See record() for the
/// run itself.
class Watchdog {
 public:
  struct Options {
    std::string folder;
    double timeout_s;  ///< 0: does nothing
    /// Gets what is known, on the watchdog's thread, at most once. Ends the job.
    std::function<void(const std::string& report)> give_up;
  };

  Watchdog(const Communicator& ranks, Options options);
  /// Removes this rank's file, unless an exception is on its way: then it is written once more, and stays.
  ~Watchdog();
  /// From now on ranks hang when no collective call of this one began or returned for `timeout_s`. Every twentieth of
  /// that, at most every 5 s, it writes what the last calls were to `folder`/rank_00003.txt, and one rank that finds
  /// itself stuck compares the files of all and writes report.txt. Clears the folder of what an earlier run left.
  /// Throws ConfigError where it cannot be made. Collective over ranks.
  void record(Communicator& ranks);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  using Traces = std::map<int, RankTrace>;
  void watch();
  bool sleep(double seconds, bool was_recording);
  void write();
  Traces read_all() const;
  std::optional<std::string> verdict();
  std::string where_it_waits() const;
  std::string compare() const;

  Options options_;
  int rank_, size_;
  std::shared_ptr<const CallTrace> trace_;
  std::atomic<bool> recording_ = false;
  RankTrace mine_;
  Traces before_;  // of all ranks, at this one's turn to compare them
  int64_t stuck_beats_ = 0;
  std::chrono::steady_clock::time_point watching_since_ = std::chrono::steady_clock::now();
  int exceptions_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;  // last: it uses all others
};

/// Reads a folder of traces that a run left, and compares them; for people, afterwards. Throws Error where there are
/// none.
std::string compare_trace_folder(const std::string& folder);

/// The watchdog of a run, with folder run.folder/traces and run.hang_timeout_s: it logs its report and ends the job
/// with ExitCode::hang. It does not rely on the ranks' transport for that, which may be what hangs: this process ends
/// within 10 s whatever happens. Begins as for a run that starts; `world` outlives it.
std::unique_ptr<Watchdog> watch_run(const RunConfig& run, Communicator& world);

}  // namespace olmoe

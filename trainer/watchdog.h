#pragma once
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

#include "parallel/communicator.h"
#include "parallel/trace_comparison.h"
#include "trainer/config_sections.h"

namespace olmoe {

/// Notices that the ranks hang: that no collective call of this rank began or returned for `timeout_s`. A thread of its
/// own writes what the rank's last calls were to `folder`/rank_00003.txt, every twentieth of the timeout, at most every
/// 5 s. One rank that finds itself stuck compares the files of all, three of these beats later, and gives up for all.
/// It makes no collective call itself, so it works whatever the ranks wait in.
class Watchdog {
 public:
  struct Options {
    std::string folder;
    double timeout_s;  ///< 0: does nothing
    /// Gets the comparison, on the watchdog's thread, at most once, after folder/report.txt was written. Ends the job.
    std::function<void(const std::string& report)> give_up;
  };

  /// Clears the folder of what an earlier run left. Collective over ranks.
  Watchdog(Communicator& ranks, Options options);
  /// Removes this rank's file, unless an exception is on its way: then it is written once more, and stays.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  using Traces = std::map<int, RankTrace>;
  void watch();
  bool sleep(double seconds);
  void write();
  Traces read_all() const;
  std::optional<std::string> verdict();

  Options options_;
  int rank_, size_;
  std::shared_ptr<const CallTrace> trace_;
  RankTrace mine_;
  Traces first_;           // of all ranks, when this one found itself stuck
  int64_t stuck_beats_ = 0;
  std::chrono::steady_clock::time_point watching_since_ = std::chrono::steady_clock::now();
  int exceptions_;
  std::mutex mutex_;
  std::condition_variable ending_;
  bool ended_ = false;
  std::thread thread_;     // last: it uses all others
};

/// Reads a folder of traces that a run left, and compares them; for people, afterwards. Throws Error where there are
/// none.
std::string compare_trace_folder(const std::string& folder);

/// The watchdog of a run, with folder run.folder/traces and run.hang_timeout_s: it logs the comparison and ends the job
/// with ExitCode::hang. It does not rely on the ranks' transport for that, which may be what hangs: this process ends
/// within 10 s whatever happens. Collective over ranks.
std::unique_ptr<Watchdog> watch_run(const RunConfig& run, Communicator& ranks);

}  // namespace olmoe

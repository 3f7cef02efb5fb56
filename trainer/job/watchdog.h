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

/// Detects hung collectives from a background thread and ends the job. Makes no collective calls itself. While a run
/// starts, a hang is one call of this rank that does not return for `timeout_s`; time between calls does not count
/// then, and no file is written. See record() for the run itself.
class Watchdog {
 public:
  struct Options {
    std::string folder;
    double timeout_s;  ///< 0: no watchdog
    /// Called with a report on the watchdog's thread, at most once. Ends the job.
    std::function<void(const std::string& report)> give_up;
  };

  Watchdog(const Communicator& ranks, Options options);
  /// Removes this rank's file. During an exception it writes the file once more and keeps it.
  ~Watchdog();
  /// Starts the watch of the run: a hang is then no collective call of this rank that began or returned for
  /// `timeout_s`. Every timeout_s / 20, but at least every 5 s, the last calls are written to `folder`/rank_00003.txt.
  /// A rank that hangs compares the files of all ranks and writes report.txt. Clears `folder` first. Throws ConfigError
  /// where it cannot be made. Collective over ranks.
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
  Traces before_;  // of all ranks, when this rank's turn to compare began
  int64_t stuck_beats_ = 0;
  std::chrono::steady_clock::time_point watching_since_ = std::chrono::steady_clock::now();
  int exceptions_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;  // last: it uses all others
};

/// Compares the traces that a run left in a folder, as text. Throws Error where there are none.
std::string compare_trace_folder(const std::string& folder);

/// The watchdog of a run, with folder run.folder/traces and run.hang_timeout_s. It logs its report and ends the job
/// with ExitCode::hang, this process within 10 s even if the ranks' transport hangs. Before record() it watches the
/// start. `world` must outlive it.
std::unique_ptr<Watchdog> watch_run(const RunConfig& run, Communicator& world);

}  // namespace olmoe

#pragma once
#include <csignal>
#include <cstdint>
#include <functional>
#include <string>

#include "core/error.h"
#include "core/stopwatch.h"

namespace olmoe {

/// Told during long work how much of it is done. What it throws ends the work.
using Progress = std::function<void(int64_t done_bytes, int64_t all_bytes)>;

/// One line on stderr that is rewritten in place: "export: 1.50 GiB of 12.89 GiB, 11 %, 410 MiB/s".
class ProgressLine {
 public:
  /// Prints nothing unless `shown`.
  ProgressLine(std::string work, bool shown) : work_(std::move(work)), shown_(shown) {}
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  /// Rewrites the line, at most some times a second, and at the end.
  void update(int64_t done_bytes, int64_t all_bytes);

 private:
  std::string work_;
  bool shown_, printed_ = false;
  double last_s_ = -1;
  Stopwatch watch_;
};

/// Holds SIGINT, SIGTERM and SIGHUP back, so that work ends between two pieces and removes what it made. Made before
/// any thread is started, which inherits that. Once this object is destroyed, a signal that came acts as it does by
/// default.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
  /// Throws Error once one of the signals came.
  void check() const;

 private:
  sigset_t held_, before_;
};

}  // namespace olmoe

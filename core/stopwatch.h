#pragma once
#include <chrono>

namespace olmoe {

/// Seconds since it was made or restarted, on the steady clock. Measures the host: CUDA work runs
/// on behind it.
class Stopwatch {
 public:
  double elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void restart() { start_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace olmoe

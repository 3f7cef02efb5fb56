#pragma once
#include <chrono>

namespace olmoe {

/// Seconds since construction or restart(), on the steady clock of the host. Does not wait for CUDA work in flight.
class Stopwatch {
 public:
  double elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void restart() { start_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace olmoe

#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <thread>

namespace olmoe {

/// When to log that something is waited for: nothing is logged about a wait that is over before `first`.
struct NoticeTimes {
  std::chrono::milliseconds first = std::chrono::seconds(1), every = std::chrono::seconds(30);
};

/// Logs what this rank waits for, on a thread of its own, as long as it lives: for calls that log nothing themselves.
class WaitingNotice {
 public:
  /// `text` is given the seconds waited so far. Throws Error if the thread cannot be started.
  explicit WaitingNotice(std::function<std::string(int64_t waited_s)> text, NoticeTimes times = {});

 private:
  std::jthread thread_;
};

/// The same for a polling loop.
class WaitingClock {
 public:
  explicit WaitingClock(NoticeTimes times = {}) : times_(times), next_(begin_ + times.first) {}
  std::chrono::steady_clock::duration waited() const { return std::chrono::steady_clock::now() - begin_; }
  /// Logs `text` as a warning if it is time to.
  void report(const std::function<std::string(int64_t waited_s)>& text);

 private:
  NoticeTimes times_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(), next_;
};

}  // namespace olmoe

#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <thread>

namespace olmoe {

/// When to say that something is waited for: a wait that is over before `first` is not worth a line.
struct NoticeTimes {
  std::chrono::milliseconds first = std::chrono::seconds(1), every = std::chrono::seconds(30);
};

/// Logs, on a thread of its own, what this rank waits for, as long as it lives: for a call that says nothing itself.
class WaitingNotice {
 public:
  /// `text` gets the seconds waited so far.
  explicit WaitingNotice(std::function<std::string(int64_t waited_s)> text, NoticeTimes times = {});

 private:
  std::jthread thread_;
};

/// The same for a loop that asks again and again: logs when it is time to.
class WaitingClock {
 public:
  explicit WaitingClock(NoticeTimes times = {}) : times_(times), next_(begin_ + times.first) {}
  std::chrono::steady_clock::duration waited() const { return std::chrono::steady_clock::now() - begin_; }
  void tell(const std::function<std::string(int64_t waited_s)>& text);

 private:
  NoticeTimes times_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(), next_;
};

}  // namespace olmoe

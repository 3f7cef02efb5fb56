#pragma once
#include <c10/core/ScalarType.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace olmoe {

enum class Collective {
  all_gather,
  reduce_scatter,
  all_reduce,
  all_to_all,
  broadcast,
  barrier,
  split,
  join  ///< ranks meet in a library that a back end stands on
};
const char* name_of(Collective kind);

/// One call of a rank, as its trace shows it.
struct TracedCall {
  int64_t sequence;  ///< counted over all groups of the rank, from 0
  std::string what;  ///< group, kind and dtype: "shard.all_gather BFloat16"
  int64_t elements;
  bool finished;   ///< returned; over NCCL that is: handed to the GPU
  double since_s;  ///< since it returned, or, while it has not, since it began

  /// "#7 shard.all_gather BFloat16 4096 finished" (or "entered").
  std::string text() const;
};

/// The last 64 collective calls of a rank, in all of its groups: what it was doing when it died or hung. Safe to read
/// from another thread (a watchdog) while the rank is inside a call.
class CallTrace {
 public:
  /// Notes that a call of a group begins; returns its sequence number, counted from 0.
  int64_t enter(const std::string& group, Collective kind, at::ScalarType dtype, int64_t elements);
  void finish(int64_t sequence);
  /// Oldest first.
  std::vector<TracedCall> calls() const;
  /// The same as TracedCall::text() has them, one a line.
  std::string text() const;
  /// Seconds since a call began or returned, or since this trace began.
  double quiet_s() const;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kCalls = 64;
  struct Entry {
    std::string group;
    Collective kind;
    at::ScalarType dtype;
    int64_t elements;
    bool finished;
    Clock::time_point changed;
  };
  mutable std::mutex mutex_;
  std::array<Entry, kCalls> ring_{};
  int64_t next_ = 0;
  Clock::time_point changed_ = Clock::now();
};

}  // namespace olmoe

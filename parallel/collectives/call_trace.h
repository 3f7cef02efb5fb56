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
  join  ///< ranks connect in a library that a back end is built on
};
const char* name_of(Collective kind);

/// One call of a rank, as recorded in its trace.
struct TracedCall {
  int64_t sequence;  ///< counted over all groups of the rank, from 0
  std::string what;  ///< group, kind and dtype: "shard.all_gather BFloat16"
  int64_t elements;
  bool finished;   ///< returned; over NCCL: enqueued on the GPU
  double since_s;  ///< seconds since it returned, or since it began if it has not

  /// "#7 shard.all_gather BFloat16 4096 finished" (or "entered").
  std::string text() const;
};

/// The last 64 collective calls of a rank, in all of its groups: what it was doing when it died or hung. Thread-safe: a
/// watchdog reads it while the rank is inside a call.
class CallTrace {
 public:
  /// Records that a call of `group` on a tensor of `elements` begins. Returns its sequence number, counted from 0.
  int64_t enter(const std::string& group, Collective kind, at::ScalarType dtype, int64_t elements);
  /// Records that the call of that number returned.
  void finish(int64_t sequence);
  /// The last 64 calls, oldest first.
  std::vector<TracedCall> calls() const;
  /// The same, TracedCall::text() of one call on each line.
  std::string text() const;
  /// Seconds since the last call began or returned; since this trace was made if there was none.
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

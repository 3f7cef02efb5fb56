#pragma once
#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

namespace olmoe {

enum class Collective {
  all_gather,
  reduce_scatter,
  all_reduce,
  all_to_all,
  broadcast,
  barrier,
  split
};
const char* name_of(Collective kind);

/// The last 64 collective calls of a rank, in all of its groups: what it was doing when it died or hung. Safe to read
/// from another thread (a watchdog) while the rank is inside a call.
class CallTrace {
 public:
  /// Notes that a call of a group begins; returns its sequence number, counted from 0.
  int64_t enter(const std::string& group, Collective kind, at::ScalarType dtype, int64_t elements);
  void finish(int64_t sequence);
  /// Oldest first, one call a line: "#7 shard.all_gather BFloat16 4096 finished" (or "entered").
  std::string text() const;

 private:
  static constexpr int64_t kCalls = 64;
  struct Entry {
    std::string group;
    Collective kind;
    at::ScalarType dtype;
    int64_t elements;
    bool finished;
  };
  mutable std::mutex mutex_;
  std::array<Entry, kCalls> ring_{};
  int64_t next_ = 0;
};

}  // namespace olmoe

#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "parallel/collectives/call_trace.h"

namespace olmoe {

/// Calls, and logical bytes that this rank sent to others, for each kind of collective.
struct Traffic {
  struct Count {
    int64_t calls = 0;
    int64_t bytes = 0;
  };
  Count all_gather, reduce_scatter, all_reduce, all_to_all, broadcast, barrier;
};

/// What one group records of its calls: counts of its own, and the trace that all groups of a rank share.
class Diagnostics {
 public:
  explicit Diagnostics(std::string group);

  /// Counted over the life of the group, for calls that returned.
  const Traffic& traffic() const { return traffic_; }
  /// The last 64 calls of this rank, in all of its groups. A watchdog may hold it for longer than the group lives, and
  /// read it from another thread.
  std::shared_ptr<const CallTrace> trace() const { return trace_; }
  /// Runs `work`, in which the ranks wait for each other outside of the communicator's calls, as a call of the trace.
  /// If it throws, the call stays "entered".
  void traced(Collective kind, const std::function<void()>& work);

  // For communicators.
  /// Begins a call on a tensor; returns its sequence number, which the end of the call is given.
  int64_t enter(Collective kind, at::ScalarType dtype, int64_t elements);
  /// Ends a call that counts as traffic.
  void finish(int64_t call, Traffic::Count Traffic::*kind, int64_t bytes_sent);
  /// Ends one that does not.
  void finish(int64_t call) { trace_->finish(call); }
  /// Makes the calls of this group a part of another group's trace: one order of all calls of a rank.
  void join_trace_of(const Diagnostics& other) { trace_ = other.trace_; }

 private:
  std::string group_;
  Traffic traffic_;
  std::shared_ptr<CallTrace> trace_ = std::make_shared<CallTrace>();
};

}  // namespace olmoe

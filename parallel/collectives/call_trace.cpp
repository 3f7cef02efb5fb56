#include "parallel/collectives/call_trace.h"

#include <algorithm>

#include "core/error.h"

namespace olmoe {

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::all_gather:
      return "all_gather";
    case Collective::reduce_scatter:
      return "reduce_scatter";
    case Collective::all_reduce:
      return "all_reduce";
    case Collective::all_to_all:
      return "all_to_all";
    case Collective::broadcast:
      return "broadcast";
    case Collective::barrier:
      return "barrier";
    case Collective::split:
      return "split";
    case Collective::join:
      return "join";
  }
  throw Error(fmt::format("unknown collective {}", static_cast<int>(kind)));
}

std::string TracedCall::text() const {
  return fmt::format("#{} {} {} {}", sequence, what, elements, finished ? "finished" : "entered");
}

int64_t CallTrace::enter(const std::string& group, Collective kind, at::ScalarType dtype, int64_t elements) {
  std::lock_guard lock(mutex_);
  changed_ = Clock::now();
  ring_[next_ % kCalls] = {group, kind, dtype, elements, false, changed_};
  return next_++;
}

void CallTrace::finish(int64_t sequence) {
  std::lock_guard lock(mutex_);
  changed_ = Clock::now();
  ring_[sequence % kCalls].finished = true;
  ring_[sequence % kCalls].changed = changed_;
}

std::vector<TracedCall> CallTrace::calls() const {
  std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  std::vector<TracedCall> calls;
  for (int64_t call = std::max<int64_t>(0, next_ - kCalls); call < next_; ++call) {
    const Entry& entry = ring_[call % kCalls];
    calls.push_back({call, fmt::format("{}.{} {}", entry.group, name_of(entry.kind), c10::toString(entry.dtype)),
                     entry.elements, entry.finished, std::chrono::duration<double>(now - entry.changed).count()});
  }
  return calls;
}

std::string CallTrace::text() const {
  std::string lines;
  for (const auto& call : calls()) lines += call.text() + "\n";
  return lines;
}

double CallTrace::quiet_s() const {
  std::lock_guard lock(mutex_);
  return std::chrono::duration<double>(Clock::now() - changed_).count();
}

}  // namespace olmoe

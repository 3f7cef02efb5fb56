#include "parallel/call_trace.h"

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
  }
  throw Error(fmt::format("unknown collective {}", static_cast<int>(kind)));
}

int64_t CallTrace::enter(const std::string& group, Collective kind, at::ScalarType dtype,
                         int64_t elements) {
  std::lock_guard lock(mutex_);
  ring_[next_ % kCalls] = {group, kind, dtype, elements, false};
  return next_++;
}

void CallTrace::finish(int64_t sequence) {
  std::lock_guard lock(mutex_);
  ring_[sequence % kCalls].finished = true;
}

std::string CallTrace::text() const {
  std::lock_guard lock(mutex_);
  std::string lines;
  for (int64_t call = std::max<int64_t>(0, next_ - kCalls); call < next_; ++call) {
    const Entry& entry = ring_[call % kCalls];
    lines += fmt::format("#{} {}.{} {} {} {}\n", call, entry.group, name_of(entry.kind),
                         c10::toString(entry.dtype), entry.elements, entry.finished ? "finished" : "entered");
  }
  return lines;
}

}  // namespace olmoe

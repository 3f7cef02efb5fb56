#include "parallel/collectives/diagnostics.h"

#include <utility>

namespace olmoe {

Diagnostics::Diagnostics(std::string group) : group_(std::move(group)) {}

void Diagnostics::traced(Collective kind, const std::function<void()>& work) {
  const int64_t call = enter(kind, at::kByte, 0);
  work();
  finish(call);
}

int64_t Diagnostics::enter(Collective kind, at::ScalarType dtype, int64_t elements) {
  return trace_->enter(group_, kind, dtype, elements);
}

void Diagnostics::finish(int64_t call, Traffic::Count Traffic::*kind, int64_t bytes_sent) {
  Traffic::Count& count = traffic_.*kind;
  count.calls += 1;
  count.bytes += bytes_sent;
  finish(call);
}

}  // namespace olmoe

#include "parallel/lane.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

namespace olmoe {

Lane::Lane(c10::Device device, Beside beside) {
  if (beside == Beside::no || device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl streams(device.type());
  const c10::Device here = device.has_index() ? device : streams.getDevice();
  // High priority: collectives take few multiprocessors, and the longer they wait for them, the
  // less of their time is hidden.
  stream_ = streams.getStreamFromGlobalPool(here, /*isHighPriority=*/true);
}

void Lane::wait() {
  if (std::exchange(has_work_, false)) order(*stream_, callers_stream());
}

Lane::Mark Lane::mark() const {
  if (!has_work_) return {};
  Mark mark(std::in_place, stream_->device_type());
  mark->record(*stream_);
  return mark;
}

void Lane::wait(const Mark& mark) const {
  if (mark) mark->block(callers_stream());
}

/// All that `second` is given from now on starts after what `first` was given so far.
void Lane::order(const c10::Stream& first, const c10::Stream& second) {
  c10::Event event(first.device_type());
  event.record(first);
  event.block(second);
}

c10::Stream Lane::callers_stream() const {
  return c10::impl::VirtualGuardImpl(stream_->device_type()).getStream(stream_->device());
}

}  // namespace olmoe

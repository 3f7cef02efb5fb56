#include "parallel/side_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

namespace olmoe {

SideStream::SideStream(c10::Device device, Overlap overlap) {
  if (overlap == Overlap::no || device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl streams(device.type());
  const c10::Device here = device.has_index() ? device : streams.getDevice();
  // High priority: collectives take few multiprocessors, and the longer they wait for them, the less is overlapped.
  stream_ = streams.getStreamFromGlobalPool(here, /*isHighPriority=*/true);
}

void SideStream::wait() {
  if (std::exchange(has_work_, false)) order(*stream_, callers_stream());
}

SideStream::Mark SideStream::mark() const {
  if (!has_work_) return {};
  Mark mark(std::in_place, stream_->device_type());
  mark->record(*stream_);
  return mark;
}

void SideStream::wait(const Mark& mark) const {
  if (mark) mark->block(callers_stream());
}

/// What `second` is given from now on starts after everything that `first` was given so far.
void SideStream::order(const c10::Stream& first, const c10::Stream& second) {
  c10::Event event(first.device_type());
  event.record(first);
  event.block(second);
}

c10::Stream SideStream::callers_stream() const {
  return c10::impl::VirtualGuardImpl(stream_->device_type()).getStream(stream_->device());
}

}  // namespace olmoe

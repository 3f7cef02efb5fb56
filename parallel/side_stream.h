#pragma once
#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>

#include <optional>

namespace olmoe {

/// Whether collectives run on side streams while the compute stream computes.
enum class Overlap { no, yes };

/// A high-priority stream of a device beside the caller's current stream. The two are ordered by events; the host never
/// waits. On a CPU, which has no streams, and with Overlap::no, work runs at once on the caller's stream: run() is then
/// a call, and wait() does nothing. Tensors that the work uses are allocated outside of it, or used by nothing else.
/// A caller that changes its current stream orders the new one after the old.
class SideStream {
 public:
  SideStream(c10::Device device, Overlap overlap);

  /// Enqueues `work` after everything that the caller's stream was given so far. Throws what `work` throws.
  template <class Work>
  void run(const Work& work) {
    if (!stream_) return work();
    order(callers_stream(), *stream_);
    has_work_ = true;
    const c10::StreamGuard guard(*stream_);
    work();
  }

  /// Makes the caller's stream wait for everything that this one was given so far. Does nothing if that is nothing
  /// since the last wait(): in a graph capture a wait for work from before the capture is an error.
  void wait();
  /// A point in this stream's work; none if all its work was waited for, or ran on the caller's stream.
  using Mark = std::optional<c10::Event>;
  /// The point after everything that this stream was given so far.
  Mark mark() const;
  /// Makes the caller's stream wait for the work before `mark` only.
  void wait(const Mark& mark) const;

 private:
  static void order(const c10::Stream& first, const c10::Stream& second);
  c10::Stream callers_stream() const;

  std::optional<c10::Stream> stream_;  ///< none: work runs on the caller's
  bool has_work_ = false;              ///< that the caller's stream does not wait for yet
};

}  // namespace olmoe

#pragma once
#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>

#include <optional>

namespace olmoe {

/// A line of work beside the caller's: a high-priority stream of the device, ordered with the
/// caller's current stream by events, without waiting on the host. Where the device has no streams
/// (CPU), or with Beside::no, work runs in the caller's line, at once and in order: then `run` is a
/// call and `wait` is nothing. Tensors that work on a lane touches are made
/// outside it, or are scratch that nothing else uses. Where the caller changes its current stream, the new one is
/// ordered after the old.
class Lane {
 public:
  enum class Beside { no, yes };
  Lane(c10::Device device, Beside beside);

  /// What `work` enqueues starts after all that the caller's stream was given so far.
  template <class Work>
  void run(const Work& work) {
    if (!stream_) return work();
    order(callers_stream(), *stream_);
    has_work_ = true;
    const c10::StreamGuard guard(*stream_);
    work();
  }

  /// What the caller's stream is given from now on starts after all that the lane was given so far. Nothing is asked of
  /// the streams if that is nothing since the last such wait: to wait for a stream outside a capture would break it.
  void wait();
  /// A point in the lane's work. None where the lane is the caller's own line, or all it was given has been waited for.
  using Mark = std::optional<c10::Event>;
  /// The point after all that the lane was given so far.
  Mark mark() const;
  /// What the caller's stream is given from now on starts after `mark`, whatever the lane was given since.
  void wait(const Mark& mark) const;

 private:
  static void order(const c10::Stream& first, const c10::Stream& second);
  c10::Stream callers_stream() const;

  std::optional<c10::Stream> stream_;  ///< none: the caller's
  bool has_work_ = false;              ///< that the caller has not waited for
};

}  // namespace olmoe

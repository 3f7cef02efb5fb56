#pragma once
#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace olmoe {

/// Records what work enqueues on a device, to have it done again by one call: the kernels, not the host's part. All of
/// it runs in line with the caller's current stream.
class GraphRecorder {
 public:
  virtual ~GraphRecorder() = default;
  /// Does the work as usual, where record() will record it: what it makes once and keeps is there afterwards.
  virtual void rehearse(const std::function<void()>& work) = 0;
  /// Records the work, once, without doing it. It may not wait for the device, and tensors that it leaves behind stay
  /// where they are, to be written by each replay. Throws Error, of LibTorch or ours, where something cannot be
  /// recorded; memory is then handed out as before, but the process should end: random numbers may be out of use.
  virtual void record(const std::function<void()>& work) = 0;
  /// Does what was recorded.
  virtual void replay() = 0;
};

namespace cuda {

/// A CUDA graph on a stream of its own. Streams that the work brings in must have joined it again at its end.
std::unique_ptr<GraphRecorder> make_graph_recorder(c10::Device device);

}  // namespace cuda
}  // namespace olmoe

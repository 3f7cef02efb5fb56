#pragma once
#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace olmoe {

/// The kernels that some work enqueues on a device, captured once and replayed by one call without the host's part.
/// Everything is ordered with the caller's current stream.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  /// Runs the work eagerly on the stream of the capture, so that what it allocates once and keeps is there afterwards.
  virtual void warm_up(const std::function<void()>& work) = 0;
  /// Captures the work, once, without running it. The work may not wait for the device; tensors that outlive it keep
  /// their addresses, and each replay writes them. Throws Error, of LibTorch or ours, where something cannot be
  /// captured. Allocation works as before then, but the process should end: random numbers may be unusable.
  virtual void capture(const std::function<void()>& work) = 0;
  /// Enqueues the captured kernels. Throws Error without a capture.
  virtual void replay() = 0;
};

namespace cuda {

/// A CUDA graph, captured on a stream of its own. Other streams that the work uses must have joined it at its end.
std::unique_ptr<DeviceGraph> make_device_graph(c10::Device device);

}  // namespace cuda
}  // namespace olmoe

#pragma once
#include <c10/core/Device.h>

#include <future>
#include <span>
#include <vector>

#include "parallel/side_stream.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// A copy of trained state in host memory, pinned for tensors on a GPU, which a save writes while training goes on. The
/// memory is allocated once and kept for all copies. One copy at a time, by two threads: that of the caller and that of
/// the writer.
class StateSnapshot {
 public:
  explicit StateSnapshot(c10::Device device);
  /// Allocates the memory for copies of `state`, and touches it, so that no copy waits for the operating system to
  /// provide its pages. begin() does so otherwise. Throws c10::Error where there is not enough.
  void reserve(std::span<const StateTensor> state);
  /// Begins a copy of `state` as it is now. It must not change before wait_until_copied(). On a GPU the copies run on a
  /// side stream. Throws as reserve().
  void begin(std::span<const StateTensor> state);
  /// Caller: from here on `state` may change. Blocks on a CPU; on a GPU the caller's stream waits, and the host does
  /// not.
  void wait_until_copied();
  /// Writer, on its own thread: the copy, once it is complete. On a CPU it is made here. The tensors stay as they are
  /// until the next begin().
  std::span<const StateTensor> complete();

 private:
  c10::Device device_;
  SideStream stream_;
  SideStream::Mark copied_on_gpu_;
  std::vector<StateTensor> source_, copy_;
  std::promise<void> copied_;
  std::future<void> copied_on_cpu_;
};

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// A contiguous tensor in host memory for the time of a collective: the tensor itself if it is there, a pinned copy if
/// it is on a GPU. Copies run on the current stream and the host waits for them.
class HostTensor {
 public:
  explicit HostTensor(const at::Tensor& tensor);
  HostTensor(const HostTensor&) = delete;
  HostTensor& operator=(const HostTensor&) = delete;

  const at::Tensor& operator*() const { return host_; }
  const at::Tensor* operator->() const { return &host_; }
  /// Copies what the collective wrote to host memory back to the tensor on the GPU.
  void copy_back();

 private:
  at::Tensor tensor_;
  at::Tensor host_;
};

/// Copies `host`, in host memory, to `to` of equal shape, through pinned memory if that is on a GPU. The host does not
/// wait, and may change `host` as soon as this returns.
void send(const at::Tensor& host, const at::Tensor& to);

/// A copy in host memory of a tensor that a GPU may still be writing; the tensor itself if it is in host memory. A host
/// sync: while the host waits it polls `ranks`, and throws Error if another rank died.
at::Tensor fetch(const at::Tensor& tensor, Communicator& ranks);

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Host memory that stands for a tensor during a collective: of a tensor in host memory that memory
/// itself, of one on a GPU a pinned copy. Copies run on the current stream and are waited for, so
/// that ranks which share a GPU can meet in host memory. Contiguous tensors only.
class HostTensor {
 public:
  explicit HostTensor(const at::Tensor& tensor);
  HostTensor(const HostTensor&) = delete;
  HostTensor& operator=(const HostTensor&) = delete;

  const at::Tensor& operator*() const { return host_; }
  const at::Tensor* operator->() const { return &host_; }
  /// The collective wrote to host memory: brings the tensor up to date.
  void copy_back();

 private:
  at::Tensor tensor_;
  at::Tensor host_;
};

/// Copies a tensor in host memory to one on a device, through pinned memory where that is a GPU. The host waits for
/// nothing, and may change `host` at once.
void send(const at::Tensor& host, const at::Tensor& to);

/// A copy in host memory of a tensor that a GPU may still be working at. While the host waits it polls `ranks`, so that
/// the death of another rank ends in an Error. On a CPU the tensor itself.
at::Tensor fetch(const at::Tensor& tensor, Communicator& ranks);

}  // namespace olmoe

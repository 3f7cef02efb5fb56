#pragma once
#include <memory>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// A back end on top of another one (`host`) of the same ranks, which serves what the derived class does not: tensors
/// in host memory. It has the host's name, ranks and trace; a call that the host serves is in the trace and the traffic
/// once, as a call of this communicator.
class StackedCommunicator : public Communicator {
 public:
  explicit StackedCommunicator(std::unique_ptr<Communicator> host);
  void abort(int exit_code) override { host_->abort(exit_code); }
  void poll() override { host_->poll(); }

 protected:
  Communicator& host() const { return *host_; }
  /// The host's group for do_split(), with this rank's trace. Collective over the host.
  std::unique_ptr<Communicator> split_host(int color, int key, std::string name);

  void do_all_gather(at::Tensor& out, const at::Tensor& in) override;
  void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) override;
  void do_all_reduce(at::Tensor& inout, Reduce op) override;
  void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                     const std::vector<int64_t>& send) override;
  void do_broadcast(at::Tensor& inout, int root) override;
  void do_barrier() override;

 private:
  std::unique_ptr<Communicator> host_;
};

}  // namespace olmoe

#pragma once
#include <memory>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// A back end that stands on another one of the same ranks, which serves what it does not serve itself: tensors in host
/// memory. A call goes into the trace once, as the caller's; the host's part of it is none of its own. It has the
/// host's name, ranks and trace.
class StackedCommunicator : public Communicator {
 public:
  explicit StackedCommunicator(std::unique_ptr<Communicator> host);
  void abort(int exit_code) override { host_->abort(exit_code); }
  void poll() override { host_->poll(); }

 protected:
  Communicator& host() const { return *host_; }
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

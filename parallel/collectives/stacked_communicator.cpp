#include "parallel/collectives/stacked_communicator.h"

#include <utility>

namespace olmoe {

StackedCommunicator::StackedCommunicator(std::unique_ptr<Communicator> host)
    : Communicator(host->name(), host->rank(), host->size()), host_(std::move(host)) {
  diagnostics().join_trace_of(host_->diagnostics());
}

std::unique_ptr<Communicator> StackedCommunicator::split_host(int color, int key, std::string name) {
  auto part = host_->do_split(color, key, std::move(name));
  part->diagnostics().join_trace_of(host_->diagnostics());  // for calls that are made on it alone
  return part;
}

void StackedCommunicator::do_all_gather(at::Tensor& out, const at::Tensor& in) { host_->do_all_gather(out, in); }

void StackedCommunicator::do_reduce_scatter(at::Tensor& out, const at::Tensor& in) {
  host_->do_reduce_scatter(out, in);
}

void StackedCommunicator::do_all_reduce(at::Tensor& inout, Reduce op) { host_->do_all_reduce(inout, op); }

void StackedCommunicator::do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                                        const std::vector<int64_t>& send) {
  host_->do_all_to_all(out, in, recv, send);
}

void StackedCommunicator::do_broadcast(at::Tensor& inout, int root) { host_->do_broadcast(inout, root); }

void StackedCommunicator::do_barrier() { host_->do_barrier(); }

}  // namespace olmoe

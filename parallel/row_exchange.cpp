#include "parallel/row_exchange.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <utility>

#include "core/error.h"

namespace olmoe {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// The buffers of one exchange, and of its gradients in the backward pass.
class RowTransfer {
 public:
  RowTransfer(std::shared_ptr<RowExchange::Link> link, RowCounts counts)
      : link_(std::move(link)), counts_(std::move(counts)) {}

  void start_forward(const at::Tensor& rows) { start(rows, counts_.send, counts_.recv); }
  void start_backward(const at::Tensor& grads) { start(grads, counts_.recv, counts_.send); }
  /// Makes the caller's stream wait, and returns what was received. The transfer holds no buffers afterwards.
  at::Tensor wait() {
    ENSURE(received_.defined(), "{}: no exchange of rows is in flight that could be waited for", link_->group.name());
    link_->stream.wait(done_);
    sent_.reset();
    return std::exchange(received_, {});
  }
  /// The buffer of an exchange in flight, for autograd to hold until wait().
  const at::Tensor& receiving() const { return received_; }

 private:
  void start(const at::Tensor& rows, const std::vector<int64_t>& send, const std::vector<int64_t>& recv) {
    ENSURE(!received_.defined(), "{}: an exchange of rows is started while one is in flight", link_->group.name());
    auto sizes = rows.sizes().vec();
    sizes.front() = std::accumulate(recv.begin(), recv.end(), int64_t{0});
    sent_ = rows.contiguous();
    received_ = at::empty(sizes, rows.options());
    link_->stream.run([&] { link_->group.all_to_all(received_, sent_, recv, send); });
    done_ = link_->stream.mark();
  }

  std::shared_ptr<RowExchange::Link> link_;
  RowCounts counts_;
  at::Tensor sent_, received_;
  SideStream::Mark done_;
};

namespace {

using TransferPtr = std::shared_ptr<RowTransfer>;

/// A transfer as a node of the graph keeps it.
struct SavedTransfer : torch::CustomClassHolder {
  explicit SavedTransfer(TransferPtr saved) : transfer(std::move(saved)) {}
  TransferPtr transfer;
};

void save(AutogradContext* ctx, const TransferPtr& transfer) {
  ctx->saved_data["transfer"] = c10::IValue::make_capsule(c10::make_intrusive<SavedTransfer>(transfer));
}

RowTransfer& transfer_of(AutogradContext* ctx) {
  return *c10::static_intrusive_pointer_cast<SavedTransfer>(ctx->saved_data["transfer"].toCapsule())->transfer;
}

struct StartFunction : Function<StartFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const TransferPtr& transfer) {
    transfer->start_forward(rows);
    save(ctx, transfer);
    return at::empty({1}, rows.options()).expand(rows.sizes());
  }
  /// The incoming gradient is the buffer that WaitFunction's backward returned; it is filled once wait() returns.
  static variable_list backward(AutogradContext* ctx, const variable_list&) { return {transfer_of(ctx).wait(), {}}; }
};

struct WaitFunction : Function<WaitFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor&, const TransferPtr& transfer) {
    save(ctx, transfer);
    return transfer->wait();
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& transfer = transfer_of(ctx);
    transfer.start_backward(grads[0]);
    return {transfer.receiving(), {}};
  }
};

}  // namespace

RowExchange::RowExchange(Communicator& group, c10::Device device, Overlap overlap)
    : link_(std::make_shared<Link>(Link{group, SideStream(device, overlap)})) {}

PendingExchange RowExchange::start(const at::Tensor& rows, const RowCounts& counts) {
  auto transfer = std::make_shared<RowTransfer>(link_, counts);
  return {StartFunction::apply(rows, transfer), transfer};
}

at::Tensor RowExchange::wait(const PendingExchange& pending) {
  return WaitFunction::apply(pending.placeholder, pending.transfer);
}

}  // namespace olmoe

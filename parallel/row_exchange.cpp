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

class RowExchange::Flight {
 public:
  Flight(std::shared_ptr<Link> link, RowCounts counts) : link_(std::move(link)), counts_(std::move(counts)) {}

  void send(const at::Tensor& rows) { leave(rows, counts_.send, counts_.recv); }
  void send_back(const at::Tensor& rows) { leave(rows, counts_.recv, counts_.send); }
  /// What arrived. Both buffers are the caller's, or free, from here on.
  at::Tensor land() {
    ENSURE(arriving_.defined(), "{}: rows are waited for that are not on their way", link_->group.name());
    link_->stream.wait(arrival_);
    leaving_.reset();
    return std::exchange(arriving_, {});
  }
  /// What will have arrived, for the engine to hold on to until it is waited for.
  const at::Tensor& arriving() const { return arriving_; }

 private:
  void leave(const at::Tensor& rows, const std::vector<int64_t>& send, const std::vector<int64_t>& recv) {
    ENSURE(!arriving_.defined(), "{}: rows are sent while others are on their way", link_->group.name());
    auto sizes = rows.sizes().vec();
    sizes.front() = std::accumulate(recv.begin(), recv.end(), int64_t{0});
    leaving_ = rows.contiguous();
    arriving_ = at::empty(sizes, rows.options());
    link_->stream.run([&] { link_->group.all_to_all(arriving_, leaving_, recv, send); });
    arrival_ = link_->stream.mark();
  }

  std::shared_ptr<Link> link_;
  RowCounts counts_;
  at::Tensor leaving_, arriving_;
  SideStream::Mark arrival_;
};

namespace {

using FlightPtr = std::shared_ptr<RowExchange::Flight>;

/// What a node of the graph keeps of a flight.
struct Ticket : torch::CustomClassHolder {
  explicit Ticket(FlightPtr of) : flight(std::move(of)) {}
  FlightPtr flight;
};

void keep(AutogradContext* ctx, const FlightPtr& flight) {
  ctx->saved_data["flight"] = c10::IValue::make_capsule(c10::make_intrusive<Ticket>(flight));
}

RowExchange::Flight& flight_of(AutogradContext* ctx) {
  return *c10::static_intrusive_pointer_cast<Ticket>(ctx->saved_data["flight"].toCapsule())->flight;
}

struct StartFunction : Function<StartFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const FlightPtr& flight) {
    flight->send(rows);
    keep(ctx, flight);
    return at::empty({1}, rows.options()).expand(rows.sizes());
  }
  /// The gradient is that of WaitFunction, which has not arrived before this.
  static variable_list backward(AutogradContext* ctx, const variable_list&) { return {flight_of(ctx).land(), {}}; }
};

struct WaitFunction : Function<WaitFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor&, const FlightPtr& flight) {
    keep(ctx, flight);
    return flight->land();
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& flight = flight_of(ctx);
    flight.send_back(grads[0]);
    return {flight.arriving(), {}};
  }
};

}  // namespace

RowExchange::RowExchange(Communicator& group, c10::Device device, Overlap overlap)
    : link_(std::make_shared<Link>(Link{group, SideStream(device, overlap)})) {}

RowExchange::Started RowExchange::start(const at::Tensor& rows, const RowCounts& counts) {
  auto flight = std::make_shared<Flight>(link_, counts);
  return {StartFunction::apply(rows, flight), flight};
}

at::Tensor RowExchange::wait(const Started& started) { return WaitFunction::apply(started.stand_in, started.flight); }

}  // namespace olmoe

// The exchange of rows as autograd sees it: what is received, which gradients come back, and the order of calls.
#include "parallel/row_exchange.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"

namespace {

using namespace olmoe;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Rank r sends r + q rows to rank q; the values of a row name both.
RowCounts counts_of(const Communicator& group) {
  RowCounts counts;
  for (int q = 0; q < group.size(); ++q) {
    counts.send.push_back(group.rank() + q);
    counts.recv.push_back(q + group.rank());
  }
  return counts;
}
at::Tensor rows_of(const Communicator& group) {
  std::vector<at::Tensor> rows;
  for (int q = 0; q < group.size(); ++q)
    rows.push_back(at::full({group.rank() + q, 2}, group.rank() * 10 + q, at::kDouble));
  return at::cat(rows);
}

using Log = std::vector<std::string>;

/// Records its forward and backward.
struct Compute : torch::autograd::Function<Compute> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t number, Log* log) {
    ctx->saved_data["number"] = number;
    ctx->saved_data["log"] = reinterpret_cast<int64_t>(log);
    log->push_back(fmt::format("compute {}", number));
    return x * 2;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto* const log = reinterpret_cast<Log*>(ctx->saved_data["log"].toInt());
    log->push_back(fmt::format("gradient {}", ctx->saved_data["number"].toInt()));
    return {grads[0] * 2, {}, {}};
  }
};

/// Forwards calls to a group and records each exchange of rows.
class LogCommunicator final : public Communicator {
 public:
  LogCommunicator(Communicator& group, Log& log)
      : Communicator("log", group.rank(), group.size()), group_(group), log_(log) {}
  void abort(int exit_code) override { group_.abort(exit_code); }

 private:
  void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                     const std::vector<int64_t>& send) override {
    log_.push_back("exchange");
    group_.all_to_all(out, in, recv, send);
  }
  void do_all_gather(at::Tensor&, const at::Tensor&) override { ENSURE(false, "not used here"); }
  void do_reduce_scatter(at::Tensor&, const at::Tensor&) override { ENSURE(false, "not used here"); }
  void do_all_reduce(at::Tensor&, Reduce) override { ENSURE(false, "not used here"); }
  void do_broadcast(at::Tensor&, int) override { ENSURE(false, "not used here"); }
  void do_barrier() override { ENSURE(false, "not used here"); }
  std::unique_ptr<Communicator> do_split(int, int, std::string) override { throw Error("not used here"); }

  Communicator& group_;
  Log& log_;
};

}  // namespace

TEST_CASE("rows arrive in rank order, and their gradients go back the same way") {
  const int ranks = GENERATE(1, 2, 3);
  run_ranks(ranks, [&](Communicator& group) {
    RowExchange exchange(group, at::kCPU, Overlap::yes);
    const auto sent = rows_of(group).requires_grad_();
    const auto arrived = exchange.wait(exchange.start(sent, counts_of(group)));
    std::vector<at::Tensor> expected;
    for (int q = 0; q < group.size(); ++q)
      expected.push_back(at::full({q + group.rank(), 2}, q * 10 + group.rank(), at::kDouble));
    ENSURE(at::equal(arrived, at::cat(expected)), "rank {} received other rows", group.rank());
    (arrived * arrived).sum().backward();
    ENSURE(at::equal(sent.grad(), 2 * sent.detach()), "the gradients of rank {} are wrong", group.rank());
  });
}

TEST_CASE("one chunk is in flight while another is computed, and backward mirrors it") {
  Log seen;
  run_ranks(2, [&](Communicator& threads) {
    Log log;
    LogCommunicator group(threads, log);
    RowExchange exchange(group, at::kCPU, Overlap::yes);
    at::AutogradState::get_tls_state().set_multithreading_enabled(false);
    const auto x = rows_of(group).requires_grad_();
    const auto counts = counts_of(group);
    const auto first = exchange.start(x, counts), second = exchange.start(x, counts);
    auto y = Compute::apply(exchange.wait(first), 1, &log).sum();
    y = y + Compute::apply(exchange.wait(second), 2, &log).sum();
    y.backward();
    ENSURE(at::equal(x.grad(), at::full_like(x, 4)), "two chunks, each doubled");
    if (group.rank() == 0) seen = log;
  });
  CHECK(seen == Log{"exchange", "exchange", "compute 1", "compute 2",  //
                    "gradient 2", "exchange", "gradient 1", "exchange"});
}

TEST_CASE("a pending exchange is waited for once") {
  const auto group = make_single_communicator();
  RowExchange exchange(*group, at::kCPU, Overlap::yes);
  const auto pending = exchange.start(at::ones({3, 2}), {{3}, {3}});
  CHECK(at::equal(exchange.wait(pending), at::ones({3, 2})));
  CHECK_THROWS_WITH(exchange.wait(pending), Catch::Contains("no exchange of rows is in flight"));
}

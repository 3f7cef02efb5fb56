#include "model/token_dispatcher.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <utility>

#include "core/error.h"
#include "parallel/collectives/host_tensor.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

void save(AutogradContext* ctx, const kernels::Permutation& p) {
  ctx->save_for_backward({p.assignment_R, p.row_NK, p.offsets_E});
}
kernels::Permutation saved_permutation(AutogradContext* ctx) {
  auto saved = ctx->get_saved_variables();
  return {saved[0], saved[1], saved[2]};
}

/// Copies of tokens, sorted by destination rank: x_XD.
struct CopyFunction : Function<CopyFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const kernels::Permutation& copies) {
    save(ctx, copies);
    return kernels::gather_rows(x_ND, copies);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {kernels::combine_rows(grads[0].contiguous(), saved_permutation(ctx), {}), {}};
  }
};

/// The sum of the copies of each token, and a residual: y_ND.
struct SumFunction : Function<SumFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& y_XD, const kernels::Permutation& copies,
                            const std::optional<at::Tensor>& residual_ND) {
    save(ctx, copies);
    ctx->saved_data["residual"] = residual_ND.has_value();
    return kernels::combine_rows(y_XD, copies, residual_ND.value_or(at::Tensor()));
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto dy_ND = grads[0].contiguous();
    return {kernels::gather_rows(dy_ND, saved_permutation(ctx)),
            {},
            ctx->saved_data["residual"].toBool() ? dy_ND : at::Tensor()};
  }
};

/// How many elements are 0, 1, ..., size - 1: int64 [size].
at::Tensor count_each(const at::Tensor& values, int64_t size) {
  return (values.reshape({-1, 1}) == at::arange(size, values.options())).sum(0);
}

std::vector<int64_t> column(const at::Tensor& host, int64_t index) {
  const auto values = host.select(1, index).contiguous();
  const auto* const begin = values.const_data_ptr<int64_t>();
  return {begin, begin + values.numel()};
}

int64_t sum(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

}  // namespace

TokenDispatcher::TokenDispatcher(std::shared_ptr<RowExchange> exchange, int64_t num_experts)
    : exchange_(std::move(exchange)), num_local_experts_(num_experts / exchange_->group().size()) {
  const int ranks = exchange_->group().size();
  ENSURE(num_experts % ranks == 0, "num_experts ({}) is not divisible by the expert-parallel size ({})", num_experts,
         ranks);
}

DispatchPlan TokenDispatcher::plan_local(const at::Tensor& ids_NK, std::optional<int64_t> rows) const {
  if (!rows) rows = fetch((ids_NK >= 0).sum(), exchange_->group()).item<int64_t>();
  DispatchPlan plan;
  plan.rows = kernels::sort_by_expert(ids_NK, num_local_experts_, rows);
  return plan;
}

std::vector<DispatchPlan> TokenDispatcher::plan(at::TensorList chunks) const {
  auto& group = exchange_->group();
  const int64_t P = group.size(), C = std::ssize(chunks);
  std::vector<at::Tensor> copy_ranks, sent;  // sent to each rank: copies of tokens, and assignments to its experts
  for (const auto& ids_NK : chunks) {
    const auto rank_NK = ids_NK.div(num_local_experts_, "floor");                         // -1 stays -1
    const auto seen_NK = (rank_NK.unsqueeze(2) == rank_NK.unsqueeze(1)).tril(-1).any(2);  // by an earlier assignment
    copy_ranks.push_back(rank_NK.masked_fill(seen_NK, -1));
    sent.push_back(count_each(copy_ranks.back(), P));
    sent.push_back(count_each(rank_NK, P));
  }
  const auto sent_P2C = at::stack(sent, 1);
  auto received_P2C = at::empty_like(sent_P2C);
  const std::vector<int64_t> one_each(static_cast<size_t>(P), 1);
  group.all_to_all(received_P2C, sent_P2C, one_each, one_each);
  const auto counts_P4C = fetch(at::cat({sent_P2C, received_P2C}, 1), group);

  std::vector<DispatchPlan> plans;
  for (int64_t c = 0; c < C; ++c) {
    const RowCounts copies{column(counts_P4C, 2 * c), column(counts_P4C, 2 * C + 2 * c)};
    plans.push_back(plan_chunk(chunks[c], copy_ranks[c], copies, sum(column(counts_P4C, 2 * C + 2 * c + 1))));
  }
  return plans;
}

DispatchPlan TokenDispatcher::plan_chunk(const at::Tensor& ids_NK, const at::Tensor& copy_rank_NK,
                                         const RowCounts& counts, int64_t rows) const {
  auto& group = exchange_->group();
  const auto me = static_cast<size_t>(group.rank());
  const int64_t K = ids_NK.size(1);
  DispatchPlan plan;
  plan.counts = counts;
  plan.exchanged = {sum(counts.send) - counts.send[me], sum(counts.recv) - counts.recv[me]};
  plan.copies = kernels::sort_by_expert(copy_rank_NK, group.size(), sum(counts.send));
  const auto ids_XK = ids_NK.index_select(0, plan.copies.assignment_R.div(K, "floor"));
  auto ids_MK = at::empty({sum(counts.recv), K}, ids_NK.options());
  group.all_to_all(ids_MK, ids_XK, counts.recv, counts.send);
  const auto local_MK = ids_MK - group.rank() * num_local_experts_;
  const auto elsewhere_MK = (local_MK < 0).logical_or_(local_MK >= num_local_experts_);
  plan.rows = kernels::sort_by_expert(local_MK.masked_fill(elsewhere_MK, -1), num_local_experts_, rows);
  return plan;
}

TokenDispatcher::PendingDispatch TokenDispatcher::start_dispatch(const at::Tensor& x_ND, const at::Tensor& scores_NK,
                                                                 const DispatchPlan& plan) const {
  auto x_XD = exchange_->start(CopyFunction::apply(x_ND, plan.copies), plan.counts);
  return {std::move(x_XD), exchange_->start(CopyFunction::apply(scores_NK, plan.copies), plan.counts)};
}

TokenDispatcher::Dispatched TokenDispatcher::finish_dispatch(const PendingDispatch& pending) const {
  auto x_MD = exchange_->wait(pending.x_XD);
  return {std::move(x_MD), exchange_->wait(pending.scores_XK)};
}

PendingExchange TokenDispatcher::start_combine(const at::Tensor& y_MD, const DispatchPlan& plan) const {
  return exchange_->start(y_MD, {plan.counts.recv, plan.counts.send});
}

at::Tensor TokenDispatcher::finish_combine(const PendingExchange& pending, const DispatchPlan& plan,
                                           const std::optional<at::Tensor>& residual_ND) const {
  return SumFunction::apply(exchange_->wait(pending), plan.copies, residual_ND);
}

}  // namespace olmoe

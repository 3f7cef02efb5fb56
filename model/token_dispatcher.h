// Shapes: as in model/routing.h; D width of the rows that are dispatched.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "model/routing.h"
#include "parallel/row_exchange.h"

namespace olmoe {

/// Dispatches tokens to the ranks of their experts and combines the expert outputs; both are differentiable. Each is an
/// all-to-all in two halves, start and finish, so that one chunk of tokens is in flight while another is computed.
/// Router scores are dispatched with their tokens. All calls but plan_local() are collective over axis expert.
class TokenDispatcher {
 public:
  /// Each rank of `exchange` holds num_experts / size experts, in rank order. Throws Error if size does not divide
  /// num_experts.
  TokenDispatcher(std::shared_ptr<RowExchange> exchange, int64_t num_experts);

  /// A plan for each of `chunks`, the choices [tokens of the chunk, K] (int32; -1: dropped). One host sync for all
  /// chunks: the host needs the counts.
  std::vector<DispatchPlan> plan(at::TensorList chunks) const;
  /// The plan for a rank that has all experts. `rows`: the ids that are not -1; counted, by a host sync, if not given.
  DispatchPlan plan_local(const at::Tensor& ids_NK, std::optional<int64_t> rows) const;

  /// A dispatch in flight, of tokens and their scores.
  struct PendingDispatch {
    PendingExchange x_XD, scores_XK;
  };
  PendingDispatch start_dispatch(const at::Tensor& x_ND, const at::Tensor& scores_NK, const DispatchPlan& plan) const;
  /// The tokens that this rank received, in the order of their source ranks.
  struct Dispatched {
    at::Tensor x_MD, scores_MK;
  };
  /// Throws Error if `pending` was finished already.
  Dispatched finish_dispatch(const PendingDispatch& pending) const;
  /// y_MD: for each received token, the sum over its experts on this rank.
  PendingExchange start_combine(const at::Tensor& y_MD, const DispatchPlan& plan) const;
  /// y_ND = residual_ND (if given) + the sum of each token's rows, in the order in which it chose their ranks. Throws
  /// Error if `pending` was finished already.
  at::Tensor finish_combine(const PendingExchange& pending, const DispatchPlan& plan,
                            const std::optional<at::Tensor>& residual_ND) const;

  int64_t num_local_experts() const { return num_local_experts_; }
  /// Whether other ranks have experts too.
  bool has_remote_experts() const { return exchange_->group().size() > 1; }

 private:
  /// `copy_rank_NK`: the rank that an assignment sends a copy of its token to, -1 for none; `rows`: assignments to the
  /// experts of this rank.
  DispatchPlan plan_chunk(const at::Tensor& ids_NK, const at::Tensor& copy_rank_NK, const RowCounts& counts,
                          int64_t rows) const;

  std::shared_ptr<RowExchange> exchange_;
  int64_t num_local_experts_;
};

}  // namespace olmoe

// Shapes as in model/routing.h; D model width.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "model/routing.h"
#include "parallel/row_exchange.h"

namespace olmoe {

/// Takes tokens to the ranks of their experts and brings the results back, all of it differentiable. The halves of each
/// way are apart, so that one chunk of tokens travels while another is computed. Router scores travel with their
/// tokens.
class TokenDispatcher {
 public:
  /// Ranks of `exchange` hold num_experts / size experts each, in rank order.
  TokenDispatcher(std::shared_ptr<RowExchange> exchange, int64_t num_experts);

  /// From the choices ids_NK of chunks of tokens (int32; -1: none). On a GPU the host waits for the counts, once for
  /// all chunks. Collective over expert.
  std::vector<DispatchPlan> plan(at::TensorList chunks) const;
  /// The same where all experts are here and nothing travels. The host waits only if ids of -1 are to be counted.
  DispatchPlan plan_here(const at::Tensor& ids_NK, bool some_absent) const;

  struct Sent {
    PendingExchange x_SD, scores_SK;
  };
  Sent send(const at::Tensor& x_ND, const at::Tensor& scores_NK, const DispatchPlan& plan) const;
  struct Received {
    at::Tensor x_MD, scores_MK;
  };
  Received receive(const Sent& sent) const;
  /// One row for each received token: the sum over its experts here.
  PendingExchange send_back(const at::Tensor& y_MD, const DispatchPlan& plan) const;
  /// y_ND = residual_ND + the rows of each token, in the order in which it chose their ranks.
  at::Tensor receive_back(const PendingExchange& sent, const DispatchPlan& plan, const at::Tensor& residual_ND) const;

  int64_t num_local_experts() const { return num_local_experts_; }
  /// Whether experts are on other ranks too.
  bool travels() const { return exchange_->group().size() > 1; }

 private:
  /// `copy_rank_NK`: where a copy of the token goes for the sake of an assignment, else -1; `rows` arrive here.
  DispatchPlan plan_chunk(const at::Tensor& ids_NK, const at::Tensor& copy_rank_NK, const RowCounts& counts,
                          int64_t rows) const;

  std::shared_ptr<RowExchange> exchange_;
  int64_t num_local_experts_;
};

}  // namespace olmoe

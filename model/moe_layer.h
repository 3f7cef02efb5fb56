// Shapes as in model/routing.h; D model width.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/experts.h"
#include "model/router.h"
#include "model/token_dispatcher.h"

namespace olmoe {

/// Assignments that an expert takes: `factor` times its share of all, rounded up.
int64_t expert_capacity(double factor, int64_t assignments, int64_t num_experts);

/// Router and experts of a block; the experts lie on the ranks of `expert`. Dropless, unless model.capacity_factor says
/// how many assignments an expert takes from a micro-batch: later ones, in the order of tokens, are dropped.
class MoeLayer {
 public:
  MoeLayer(const ModelConfig& config, const std::string& prefix, const ModelRanks& ranks, const MoeOptions& options);
  std::vector<Param> params();
  /// residual_ND + the weighted sum of the experts of x, with the auxiliary losses. Collective over expert, and over
  /// all ranks if balance is global.
  StageOut forward(const Normed& x, const at::Tensor& residual_ND, StageContext& context);

 private:
  void make_plans(Routing& routing) const;
  at::Tensor forward_chunks(const at::Tensor& x_ND, const at::Tensor& scores_NK, const at::Tensor& residual_ND,
                            const Routing& routing);

  const ModelConfig& config_;
  Router router_;
  TokenDispatcher dispatcher_;
  Experts experts_;
  int64_t chunks_;
};

}  // namespace olmoe

// Shapes: as in model/routing.h; D model width.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/dense_ffn.h"
#include "model/experts.h"
#include "model/router.h"
#include "model/token_dispatcher.h"

namespace olmoe {

/// Capacity of an expert: `factor` * assignments / num_experts, rounded up.
int64_t expert_capacity(double factor, int64_t assignments, int64_t num_experts);

/// Router, experts and shared experts of a block; the experts are divided over the ranks of axis `expert`, the shared
/// ones are on all. Dropless, unless model.capacity_factor is set: then an expert takes assignments of a micro-batch up
/// to its capacity, in the order of tokens, and drops the rest.
class MoeLayer {
 public:
  MoeLayer(const ModelConfig& config, const std::string& prefix, const ModelRanks& ranks, const MoeOptions& options);
  StageState state();
  /// residual_ND + the weighted sum of the expert outputs for x, [N, D] in the dtype of x, and the auxiliary losses.
  /// Collective over axis expert, and over all ranks in training if load balancing is global.
  StageOut forward(const Normed& x, const at::Tensor& residual_ND, StageContext& context);
  void end_step(const StepStats& step) { router_.end_step(step); }
  StageCost cost(const CostContext& context) const;
  /// Weights of shared experts that the normed rows are multiplied by.
  int shared_uses() const { return shared_ ? shared_->normed_uses() : 0; }

 private:
  void make_plans(Routing& routing) const;
  at::Tensor with_shared(const Normed& x, const at::Tensor& residual_ND);
  at::Tensor forward_chunks(const Normed& x, const at::Tensor& scores_NK, const at::Tensor& residual_ND,
                            const Routing& routing);

  const ModelConfig& config_;
  Router router_;
  TokenDispatcher dispatcher_;
  Experts experts_;
  std::optional<DenseFfn> shared_;
  int64_t chunks_;
};

}  // namespace olmoe

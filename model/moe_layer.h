// Shapes: as in model/routing.h; D model width, l latent width.
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

/// The experts of a layer, of hidden width `hidden`. Layers of several blocks may compute with the same ones
/// (model.share_experts); the first of them makes them, and has their parameters as its own.
struct LayerExperts {
  int64_t hidden;
  std::shared_ptr<Experts> shared = {};  ///< those of an earlier layer; null: this one makes its own
  std::vector<size_t> later_users = {};  ///< Param::later_users of what it makes
};

/// Router, experts and shared experts of a block; the experts are divided over the ranks of axis `expert`, the shared
/// ones are on all. With model.latent_dim experts see u = down x and their sum r comes back as up r; the router and the
/// shared experts see x (allenai/OLMo-core; moe_latent_size of Hugging Face's NemotronHConfig). Dropless, unless
/// model.capacity_factor is set: then an expert takes assignments of a micro-batch up to its capacity, by
/// model.capacity_order, and drops the rest, but for Phase::score, which drops nothing. With model.routing:
/// expert_choice it takes its best tokens.
class MoeLayer {
 public:
  MoeLayer(const ModelConfig& config, const std::string& prefix, const LayerExperts& experts, const ModelRanks& ranks,
           const MoeOptions& options);
  StageState state();
  const std::shared_ptr<Experts>& experts() const { return experts_; }
  /// residual_ND + the weighted sum of the expert outputs for x, [N, D] in the dtype of x, and the auxiliary losses.
  /// Collective over axis expert, and over all ranks in training if load balancing is global.
  StageOut forward(const Normed& x, const at::Tensor& residual_ND, StageContext& context);
  void end_step(const StepStats& step) { router_.end_step(step); }
  StageCost cost(const CostContext& context) const;
  /// Weights that the normed rows are multiplied by, on so many ranks: those of the router, of the latent projection or
  /// of experts that nothing is dispatched to, and of shared experts.
  int normed_uses(int expert_ranks) const {
    return (expert_ranks == 1 || is_latent() ? 2 : 1) + (shared_ ? shared_->normed_uses() : 0);
  }
  /// Passes over [N, D] of a forward, to add the residuals of attention and of this layer: the kernel that sums rows
  /// adds the latter; sums of their own are those of shared experts and of latent ones.
  double residual_passes() const { return 2.0 + (shared_ ? 3 : 0) + (is_latent() ? 3 : 0); }

 private:
  /// Tokens that each expert chooses of a micro-batch with expert choice.
  int64_t chosen_tokens(const Batch& batch) const;
  bool drops(const StageContext& context) const { return config_.capacity_factor && context.phase != Phase::score; }
  /// The choice without what experts do not take, by capacity or by their own choice.
  at::Tensor kept_choice(const at::Tensor& scores_NK, StageContext& context) const;
  void make_plans(const at::Tensor& scores_NK, StageContext& context) const;
  at::Tensor with_shared(const Normed& x, const at::Tensor& residual_ND);
  bool is_latent() const { return config_.latent_dim > 0; }
  at::Tensor from_latent(const at::Tensor& r_Nl, const at::Tensor& base_ND) const;
  /// `rows`: what experts take of x.
  at::Tensor forward_chunks(const Normed& x, const Normed& rows, const at::Tensor& scores_NK,
                            const at::Tensor& residual_ND, StageContext& context);
  /// Of experts of this rank, for the probe, where it asks for them.
  void note_peaks(const at::Tensor& x_MD, const kernels::Permutation& rows, StageContext& context) const;
  StageCost latent_cost(const CostContext& context) const;

  const ModelConfig& config_;
  const std::string prefix_;
  Router router_;
  TokenDispatcher dispatcher_;
  const std::shared_ptr<Experts> experts_;
  const bool made_experts_;
  const std::vector<size_t> later_users_;  // of its experts
  std::optional<DenseFfn> shared_;
  at::Tensor latent_down_lD_, latent_up_Dl_;
  int64_t chunks_;
};

}  // namespace olmoe

#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"
#include "trainer/config/config_choices.h"

namespace olmoe {

/// Parameters that the optimizer treats in a way of their own.
struct ParamGroup {
  std::string match;
  double lr_scale = 1;
  std::optional<double> weight_decay = {};
  bool frozen = false;

  template <class V>
  void fields(V& v) {
    v.required("match", match,
               "shell pattern over full parameter names, `blocks.*.moe.router.weight`: `*` any characters, `?` one, "
               "`[0-3]` one of these; must match a parameter, and no parameter may be matched by two groups");
    v("lr_scale", lr_scale, above(0), "their learning rate, as a multiple of the schedule's");
    v("weight_decay", weight_decay, at_least(0),
      "their decoupled weight decay, norms and embeddings too; null: as without the group");
    v("frozen", frozen,
      "keep them bit-equal: without moments or momentum, without weight decay and outside of the gradient norm; a run "
      "that resumes "
      "must freeze what it froze before");
  }
};

/// Muon, for matrices; without effect with `kind: adamw`.
struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  int64_t ns_steps = 5;
  std::vector<double> ns_coefficients{3.4445, -4.7750, 2.0315};
  LrAdjustment lr_adjustment = LrAdjustment::match_rms_adamw;
  double lr_scale = 1;
  std::optional<double> weight_decay = {};
  QkvMatrices qkv = QkvMatrices::split;
  bool router = false;

  template <class V>
  void fields(V& v) {
    v("momentum", momentum, in_below(0, 1), "decay of the momentum, an average of gradients");
    v("nesterov", nesterov, "orthogonalise the average of the momentum and the gradient, not the momentum alone");
    v("ns_steps", ns_steps, {1, 99}, "steps of the Newton-Schulz iteration");
    v("ns_coefficients", ns_coefficients, "a, b and c of X <- a X + (b A + c A A) X, A = X X^T");
    v("lr_adjustment", lr_adjustment,
      "factor on the learning rate of a matrix of R rows and C columns; original: sqrt(max(1, R / C)); "
      "match_rms_adamw: 0.2 sqrt(max(R, C)), with which learning rates and weight decays of AdamW fit");
    v("lr_scale", lr_scale, above(0), "learning rate of matrices, as a multiple of the schedule's");
    v("weight_decay", weight_decay, at_least(0),
      "decoupled weight decay of matrices, times their learning rate without that factor; null: "
      "optimizer.weight_decay");
    v("qkv", qkv,
      "the projection to queries, keys and values; split: three matrices; fused: one; heads: one for each head of "
      "each");
    v("router", router, "train router weights by Muon too, not by AdamW");
  }
};

/// AdamW, or Muon for matrices and AdamW for the rest.
struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::adamw;
  double lr = 4e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_norms = true;
  bool decay_embeddings = true;
  double clip_norm = 1.0;
  double clip_warmup_factor = 1.0;
  int64_t clip_warmup_steps = 0;
  MuonConfig muon = {};
  std::vector<ParamGroup> groups = {};

  /// Largest global norm of the gradients of step `step` of the run, counted from 1; 0: no clipping.
  double clip_norm_of(int64_t step) const {
    return step <= clip_warmup_steps ? clip_warmup_factor * clip_norm : clip_norm;
  }

  template <class V>
  void fields(V& v) {
    v("kind", kind,
      "adamw; muon: the weights of attention and feed-forwards, experts one by one, by Muon, all others by AdamW; a "
      "run that resumes must train each parameter as before");
    v("lr", lr, above(0), "peak learning rate");
    v("beta1", beta1, in_below(0, 1), "decay of the first moment");
    v("beta2", beta2, in_below(0, 1), "decay of the second moment");
    v("eps", eps, above(0), "added to the root of the second moment");
    v("weight_decay", weight_decay, at_least(0), "decoupled weight decay");
    v("decay_norms", decay_norms, "weight decay on norm weights too");
    v("decay_embeddings", decay_embeddings, "weight decay on the input embedding too");
    v("clip_norm", clip_norm, at_least(0), "largest global L2 norm of the gradients; 0: no clipping");
    v("clip_warmup_factor", clip_warmup_factor, above(0),
      "warm-up of the clipping norm: clip_norm is multiplied by it in the first clip_warmup_steps steps");
    v("clip_warmup_steps", clip_warmup_steps, {0}, "steps of that warm-up, from the first of the run; 0: none");
    v("muon", muon, "Muon, with kind: muon");
    v("groups", groups, "parameters with a learning rate or weight decay of their own, or frozen");
  }
};

/// The learning rate of each step: learning_rate().
struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::cosine;
  int64_t warmup_steps = 2500;
  int64_t decay_steps = 0;
  double warmup_start = 0.1;
  double final_fraction = 0.1;
  int64_t cooldown_steps = 0;
  CooldownShape cooldown_shape = CooldownShape::linear;
  double batch_lr_power = 0;

  template <class V>
  void fields(V& v) {
    v("kind", kind,
      "shape after the warm-up; wsd: the peak, then a cooldown that ends at decay_steps; inverse_sqrt: the peak times "
      "sqrt(warmup_steps / step) down to the floor, with warmup_steps 0 taken as 1");
    v("warmup_steps", warmup_steps, {0}, "steps of linear warm-up");
    v("decay_steps", decay_steps, {0},
      "step at which the floor is reached; 0: train.steps; no effect with constant and inverse_sqrt");
    v("warmup_start", warmup_start, in(0, 1), "warm-up starts at this share of the peak");
    v("final_fraction", final_fraction, in(0, 1), "floor as a share of the peak");
    v("cooldown_steps", cooldown_steps, {0},
      "steps of wsd from the peak to the floor, between the warm-up and decay_steps; required there, no effect "
      "otherwise");
    v("cooldown_shape", cooldown_shape, "of the cooldown: linear in the step, or by 1 - sqrt(its share that is over)");
    v("batch_lr_power", batch_lr_power, in(0, 1),
      "in the steps of train.batch_size_warmup the rate is multiplied by (their sequences / global_batch_size) to this "
      "power");
  }
};

}  // namespace olmoe

// Shapes: B sequences of S tokens, N = B*S tokens (rows), D model width, K experts a token, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/batch.h"
#include "kernels/cached_attention.h"
#include "kernels/experts.h"
#include "model/cost.h"
#include "model/routing.h"
#include "parallel/param_role.h"

namespace olmoe {

/// Which ranks share a parameter: all of `shard`, or those of `expert_shard` that hold the same experts.
enum class Axis { shard, expert_shard };

/// A parameter as its stage declares it. The stage computes with *slot, which a sharded unit sets.
struct Param {
  std::string name;                   ///< full name, unique in the model; the key of its initial value
  std::vector<int64_t> shape;         ///< of *slot on this rank
  std::vector<int64_t> global_shape;  ///< with all experts
  int64_t first;                      ///< element of the flattened global parameter at which `shape` begins
  Axis axis;
  at::Tensor* slot;
  bool* to_store = nullptr;  ///< for a backward that can store the gradient instead of adding (UnitParam::to_store)
  ParamRole role = ParamRole::matrix;
  RowParts parts = {};
  /// Later stages, counted from the first one's 0, that compute with *slot too and add to its gradient.
  std::vector<size_t> later_users = {};
  bool is_tied() const { return !later_users.empty(); }
};
/// A parameter that is sharded over all ranks of `shard`, of the same shape on each rank.
Param shared_param(std::string name, std::vector<int64_t> shape, ParamRole role, at::Tensor& slot);

/// What a forward is for. train: the first forward of a training step. recompute: full activation checkpointing runs
/// the stage again in the backward, with the routing of the first forward. eval and score: no backward follows. In
/// score the last stage returns the cross-entropy of each target, or of each candidate, instead of the sum, and experts
/// with a capacity drop nothing: what a text scores depends on it alone.
enum class Phase { train, recompute, eval, score };

/// The groups of ranks that stages communicate over. They outlive the stages.
struct ModelRanks {
  std::shared_ptr<RowExchange> experts;  ///< over the ranks that share the experts of a layer
  Communicator& data;                    ///< all ranks with tokens of their own: global load balancing sums over them
};

/// How experts are computed, and how tokens are dispatched to those of other ranks.
struct MoeOptions {
  at::Device device = at::kCPU;
  Overlap overlap = Overlap::yes;
  int64_t chunks = 1;  ///< of a micro-batch: one is in flight while another is computed
  kernels::ExpertKernels kernels = kernels::ExpertKernels::unfused;
};

/// Of a forward over the new tokens of sequences whose earlier ones are in a cache: what the attention of one block
/// takes. The batch is one row of all new tokens, in the order of `runs`.
struct CachedTokens {
  kernels::KeyValues cache;
  std::span<const kernels::CachedRun> runs;
  at::Tensor positions_N;  ///< int64, of each token in its sequence
};

/// What the forward of a stage is given beside its input.
struct StageContext {
  const Batch& batch;  ///< on the stage's device
  Phase phase;
  Routing& routing;  ///< of this stage and micro-batch: empty in the first forward, which fills it
  SavePolicy save_policy = SavePolicy::all;
  at::Tensor loss_seed = {};               ///< of Phase::train: d(total) / d(summed cross-entropy), a float64 scalar
  const Candidates* candidates = nullptr;  ///< of Phase::score: in place of the targets; on the stage's device
  const CachedTokens* cached = nullptr;    ///< of Phase::score, for a block: attention is to a cache, and extends it
  RoutingProbe* probe = nullptr;           ///< of a forward without a backward
};

/// Statistics of one forward of a stage with experts: float64, detached, on the device.
struct StageStats {
  at::Tensor losses_2;   ///< load-balancing loss, router z-loss; unweighted
  at::Tensor dropped_1;  ///< dropped assignments
  at::Tensor entropy_1;  ///< mean over tokens of the entropy of the router's distribution over the experts, nats
  at::Tensor counts_E;   ///< assignments to each expert, dropped ones included
  /// model.balancing_bias: quantile, in Phase::train: the bias that would have balanced this micro-batch, and 1; zeros
  /// where it has no token. Else undefined.
  at::Tensor quantiles_E1 = {};
};

/// What the experts of one stage were given in an optimizer step, by all ranks and micro-batches: float64 on the
/// device.
struct StepStats {
  at::Tensor counts_E;      ///< assignments
  at::Tensor quantiles_E1;  ///< StageStats::quantiles_E1
  at::Tensor finite;        ///< a bool scalar: whether the step updated the weights
};

struct StageOut {
  /// [N, D] in the compute dtype; of the last stage float64: the summed cross-entropy, a scalar, or in Phase::score
  /// that of each target [N], or of each candidate [C].
  at::Tensor y;
  at::Tensor aux;  ///< weighted auxiliary loss, a differentiable scalar; undefined if there is none
  std::optional<StageStats> stats = {};  ///< of a stage with num_experts() > 0
  /// Of the last stage in Phase::train with model.output_z_weight: the sum over targets of logsumexp(logits)^2, a
  /// float64 scalar, without a graph; the gradients of y are those of y + output_z_weight * output_z.
  at::Tensor output_z = {};
};

/// State of a stage that no gradient trains, such as a bias of its router: fp32 or float64, contiguous and equal on all
/// ranks. Saved in checkpoints and loaded from them.
struct StageBuffer {
  std::string name;  ///< full name, unique in the model
  at::Tensor* tensor;
};

/// The parameters and buffers of a stage, or of a layer within one.
struct StageState {
  std::vector<Param> params;
  std::vector<StageBuffer> buffers = {};  ///< with their initial values; they keep their memory while the model trains
  /// Appends what a layer within this stage or layer has.
  void add(StageState layer);
};

/// Assignments of a whole optimizer step: none of them, those of the stage, or the mean of all stages with experts.
enum class StepBalance { none, layer, all_layers };

/// A part of the model whose parameters are gathered and released together: embedding, block or head (not a pipeline
/// stage). It does not depend on how they are sharded.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual StageState state() = 0;
  /// Experts E of its StageStats; 0 for a stage without experts.
  virtual int64_t num_experts() const { return 0; }
  /// What of the whole step its load-balancing loss takes, and is then counted before the step.
  virtual StepBalance step_balance() const { return StepBalance::none; }
  /// x_ND: the output of the stage before, in the compute dtype; undefined for the first stage, which reads the batch.
  /// Collective over ModelRanks for a stage with experts.
  virtual StageOut forward(const at::Tensor& x_ND, StageContext& context) = 0;
  /// Called once after the optimizer's update, on all ranks with equal values: updates buffers. Makes no host sync and
  /// no collective call, so that a graph can capture it.
  virtual void end_step(const StepStats&) {}
  /// What one micro-batch costs in forward and backward.
  virtual StageCost cost(const CostContext& context) const = 0;
};

}  // namespace olmoe

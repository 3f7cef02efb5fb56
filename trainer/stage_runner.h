// Shapes: N tokens of a micro-batch, D model width, L layers, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "data/batch.h"
#include "model/stage.h"
#include "parallel/device_mesh.h"
#include "parallel/gather_pool.h"
#include "parallel/sharded_unit.h"
#include "parallel/side_stream.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// Where full weights, or full gradients, are stored. Pooled: in two buffers that all stages share, so that weights are
/// resharded after the forward (FSDP's reshard_after_forward). Resident: in a buffer of each unit. ZeRO-3 pools both,
/// ZeRO-2 only the gradients, ZeRO-1 neither.
enum class Residency { pooled, resident };

/// Weights of a micro-batch's losses in those of the step. Nothing is divided again afterwards.
struct LossScale {
  at::Tensor per_target;  ///< 1 / N, a float64 scalar on the device; N the target tokens of the whole step
  double aux_share;       ///< this micro-batch's tokens / the step's tokens
};
/// The scale for a step with `num_targets` > 0.
LossScale loss_scale(int64_t num_targets, double aux_share, at::Device device = at::kCPU);

/// Sums over this rank's micro-batches since the last reset; float64, on the device.
struct LocalTotals {
  at::Tensor losses_3;            ///< cross-entropy sum; share-weighted load-balancing and z-loss, means over layers
  at::Tensor counts_LE;           ///< assignments of each expert; L: blocks with experts
  at::Tensor dropped_1;           ///< assignments beyond the capacity of their expert
  at::Tensor entropy_1;           ///< share-weighted router entropy, mean over layers
  at::Tensor output_z_1;          ///< StageOut::output_z
  at::Tensor quantiles_LE1 = {};  ///< StageStats::quantiles_E1 of each block with experts; undefined where none has any
};

/// Runs the stages forward and backward, and schedules the gathers and reductions of their units.
class StageRunner {
 public:
  struct Options {
    at::ScalarType compute_dtype;  ///< of gathered weights and activations
    at::Device device;
    Residency residency;                  ///< of full weights
    bool recompute;                       ///< full activation checkpointing: save only a stage's input and routing
    bool registered_memory = false;       ///< allocate buffers of collectives from the groups that use them
    bool overlap = true;                  ///< on a GPU: gather ahead and reduce behind, on side streams
    Residency grads = Residency::pooled;  ///< of full gradients; resident: reduced once a step
    std::optional<at::ScalarType> reduce_dtype = {};  ///< gradients are sent in it; none: in the master dtype
    SavePolicy save_policy = SavePolicy::all;         ///< of graphs that wait for their backward while other stages run
  };
  StageRunner(std::vector<std::unique_ptr<Stage>> stages, DeviceMesh& mesh, Options options);

  /// Forward and backward of one micro-batch. Reduced gradients are added to each unit's `grad`: after each micro-batch
  /// where full gradients are pooled, in the last accumulation step where they are resident. A rank with an empty batch
  /// makes every collective call too. Collective over shard, and over world with a global balance.
  void train_micro_batch(const Batch& batch, LossScale scale, bool last_of_step = true);
  /// Call before the micro-batches of a step, which are `batches`. Where there are several and load balancing is of the
  /// step, it runs them forward once, and their losses up to end_step() take the assignments of all ranks that it
  /// counted. Collective over world.
  void begin_step(std::span<const Batch> batches, Communicator& world);
  /// Lets the stages update their buffers, given totals() of all ranks. `finite`: whether the step updated the weights.
  void end_step(const LocalTotals& totals, const at::Tensor& finite);
  /// Sums gradient shards over replicas, once a step. Collective over replicate.
  void reduce_replicas();
  /// Cross-entropy sum of a batch, forward only, as a float64 scalar. Collective over shard.
  at::Tensor evaluate(const Batch& batch);
  /// Log-probability of each target of a batch, forward only: float64 [B, S], zero where the target is ignored.
  /// Collective over shard.
  at::Tensor score(const Batch& batch);
  /// Log-probability of each candidate, in place of the batch's targets: float64 [C]. Collective over shard.
  at::Tensor score(const Batch& batch, const Candidates& candidates);
  /// Input of the last stage [N, D] for a batch; the last stage's weights stay gathered until the next batch. With a
  /// probe nothing is dropped, as in Phase::score, and the layers with experts append to it. Collective over shard.
  at::Tensor run_to_last(const Batch& batch, RoutingProbe* probe = nullptr);

  const LocalTotals& totals() const { return totals_; }
  /// Moves the totals out, for the caller to reduce in place; the runner has none until reset_totals().
  LocalTotals take_totals() { return std::exchange(totals_, {}); }
  /// Zeroes totals() and token_copies().
  void reset_totals();
  /// Copies of tokens dispatched and received since the last reset; counted on the host, so not in a replay.
  TokenCopies token_copies() const { return copies_; }
  at::Device device() const { return options_.device; }
  std::span<const std::unique_ptr<ShardedUnit>> units() const { return units_; }
  /// The buffers of all stages; the tensors share memory with them.
  std::vector<StateTensor> buffers() const { return buffers_; }
  Stage& last_stage() { return *stages_.back(); }

 private:
  struct Saved {  // for the backward of one stage
    at::Tensor x;
    StageOut out;
    Routing routing;
  };
  void number_moe_layers();
  void make_units(DeviceMesh& mesh);
  void bind_units();
  void place_buffers();
  at::Tensor make_buffer(int64_t numel, at::ScalarType dtype, std::span<Communicator* const> groups) const;
  std::map<const ShardedUnit*, PoolRange> share_buffers(const std::function<bool(const ShardedUnit&)>& shares,
                                                        at::ScalarType dtype) const;
  void gather(size_t stage);
  void reduce(size_t stage);
  void release(size_t stage);
  void claim_grads(size_t stage);
  /// What a forward takes and gives beside its batch, where it does.
  struct ForwardOptions {
    at::Tensor loss_seed = {};               ///< of Phase::train
    at::Tensor* counts_LE = nullptr;         ///< the assignments are added to it
    const Candidates* candidates = nullptr;  ///< of Phase::score
    RoutingProbe* probe = nullptr;           ///< not of Phase::train
  };
  at::Tensor forward(const Batch& batch, Phase phase, size_t num_stages, const ForwardOptions& options);
  void backward(const Batch& batch, const at::Tensor& loss_seed, double aux_share, bool reduces);
  void backward_stage(size_t stage, const Batch& batch, const at::Tensor& dy, double aux_share);
  void add_to_totals(size_t stage, double aux_share);
  void add_counts(size_t stage, at::Tensor& counts_LE) const;

  std::vector<std::unique_ptr<Stage>> stages_;
  Communicator& replicate_;
  std::array<Communicator*, 2> sharding_;  // the groups of dense units and of experts
  Options options_;
  SideStream gather_stream_, reduce_stream_;
  std::vector<std::unique_ptr<ShardedUnit>> units_;
  std::vector<std::vector<ShardedUnit*>> units_of_;  // that each stage computes with
  std::map<const ShardedUnit*, size_t> tied_;  // of several stages, in buffers of their own; the first of the stages
  std::vector<Slice> buffer_slices_;           // one whole buffer each
  std::vector<StateTensor> buffers_;
  at::Tensor reduce_buffer_;  // a unit's gradients in the reduce dtype, where there is one
  std::vector<Saved> saved_;
  std::vector<int64_t> moe_layer_of_;  // row of each stage in counts_LE, -1 without experts
  int64_t num_moe_layers_ = 0, num_experts_ = 0;
  LocalTotals totals_;
  at::Tensor step_counts_LE_;  // between begin_step() and end_step()
  TokenCopies copies_;
};

}  // namespace olmoe

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

namespace olmoe {

/// Where whole weights, or whole gradients, live: in two buffers that all stages share, or in one of each unit's own.
/// ZeRO-3 pools both, ZeRO-2 the gradients, ZeRO-1 neither.
enum class Residency { pooled, resident };

/// Weights of a micro-batch's losses in the step's total: nothing is divided again afterwards.
struct LossScale {
  at::Tensor per_target;  ///< 1 / N, a float64 scalar on the device; N the target tokens of the whole step
  double aux_share;       ///< this micro-batch's tokens / the step's tokens
};
/// The scale for `num_targets` > 0 that the host knows.
LossScale loss_scale(int64_t num_targets, double aux_share, at::Device device = at::kCPU);

/// Sums over the passes since the last reset, of this rank; float64, on the device.
struct PassTotals {
  at::Tensor losses_3;   ///< cross-entropy sum; share-weighted load-balancing and z-loss, means over layers
  at::Tensor counts_LE;  ///< assignments of each expert, L the blocks with experts
  at::Tensor dropped_1;  ///< assignments that found no room in their expert
};

/// Walks the stages forward and backward, and decides when their units gather and reduce.
class StageRunner {
 public:
  struct Options {
    at::ScalarType compute_dtype;
    at::Device device;
    Residency residency;
    bool recompute;                  ///< keep only each stage's input and routing, and run it again for its backward
    bool registered_memory = false;  ///< buffers of collectives come from the groups that use them
    bool overlap = true;  ///< on a GPU: gather ahead of and reduce behind the computation, on streams of their own
    Residency grads = Residency::pooled;              ///< resident: reduced once a step, not after each micro-batch
    std::optional<at::ScalarType> reduce_dtype = {};  ///< gradients are sent in it; none: in their own
    SavePolicy save_policy = SavePolicy::all;         ///< of graphs that wait for their backward while other stages run
  };
  StageRunner(std::vector<std::unique_ptr<Stage>> stages, DeviceMesh& mesh, Options options);

  /// One micro-batch, forward and backward; gradients are added to each unit's `grad`, those of resident buffers in the
  /// last pass of the step. A batch of no sequences still makes every collective. Collective over shard, and over world
  /// with a global balance.
  void train_pass(const Batch& batch, LossScale scale, bool last_of_step = true);
  /// Adds up gradient slices over replicas, once a step. Collective over replicate.
  void reduce_replicas();
  /// Cross-entropy sum of a batch, forward only, as a float64 scalar. Collective over shard.
  at::Tensor evaluate(const Batch& batch);
  /// Log-probability of each target of a batch, forward only: float64 [B, S], zero where the target is ignored.
  /// Collective over shard.
  at::Tensor score(const Batch& batch);
  /// Input of the last stage [N, D] for a batch; the last stage's weights stay gathered until the next pass.
  at::Tensor run_to_last(const Batch& batch);

  const PassTotals& totals() const { return totals_; }
  /// The totals, which the caller may reduce in place; the runner has none until reset_totals().
  PassTotals take_totals() { return std::exchange(totals_, {}); }
  /// Sets totals and token_copies() to zero.
  void reset_totals();
  /// Copies of tokens exchanged for their experts since the last reset.
  TokenCopies token_copies() const { return copies_; }
  at::Device device() const { return options_.device; }
  std::span<const std::unique_ptr<ShardedUnit>> units() const { return units_; }
  Stage& last_stage() { return *stages_.back(); }

 private:
  struct Saved {  // of one stage, from its forward to its backward
    at::Tensor x;
    StageOut out;
    Routing routing;
  };
  void number_moe_layers();
  void make_units(DeviceMesh& mesh);
  void bind_units();
  at::Tensor make_buffer(int64_t numel, at::ScalarType dtype, std::span<Communicator* const> groups) const;
  std::map<const ShardedUnit*, PoolRange> share_buffers(const std::function<bool(const ShardedUnit&)>& shares,
                                                        at::ScalarType dtype) const;
  void gather(size_t stage);
  void reduce(size_t stage);
  void release(size_t stage);
  void claim_grads(size_t stage);
  at::Tensor forward(const Batch& batch, Phase phase, size_t num_stages, const at::Tensor& loss_seed = {});
  void backward(const Batch& batch, const at::Tensor& loss_seed, double aux_share, bool reduces);
  void backward_stage(size_t stage, const Batch& batch, const at::Tensor& dy, double aux_share);
  void add_to_totals(size_t stage, double aux_share);

  std::vector<std::unique_ptr<Stage>> stages_;
  Communicator& replicate_;
  std::array<Communicator*, 2> sharding_;  // the groups that gather and reduce: of dense units, and of experts
  Options options_;
  SideStream gather_stream_, reduce_stream_;
  std::vector<std::unique_ptr<ShardedUnit>> units_;
  std::vector<std::vector<ShardedUnit*>> units_of_;  // of each stage: dense, then experts where it has any
  at::Tensor reduce_buffer_;  // gradients of a unit while they are reduced, where they are sent in a dtype of their own
  std::vector<Saved> saved_;
  std::vector<int64_t> moe_layer_of_;  // of each stage its row in the counts, -1 for one without experts
  int64_t num_moe_layers_ = 0, num_experts_ = 0;
  PassTotals totals_;
  TokenCopies copies_;
};

}  // namespace olmoe

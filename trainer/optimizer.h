#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "parallel/sharded_unit.h"
#include "trainer/checkpoint/state_tensor.h"
#include "trainer/config/config.h"

namespace olmoe {

/// AdamW on the shards of all units, after clipping by the global norm.
class Optimizer {
 public:
  Optimizer(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config);
  /// Global L2 norm of the gradients, a float64 scalar on their device: own slices, summed over `shard`. Collective
  /// over shard.
  at::Tensor grad_norm(Communicator& shard) const;
  /// begin_step() and update().
  void step(int64_t step, double lr, const at::Tensor& grad_norm);
  /// Gives the device what sets step `step`, the first is 1, apart from others, without waiting for it.
  void begin_step(int64_t step, double lr);
  /// Clips, updates weights and moments (nothing where the norm is not finite), leaves gradients zero, and does
  /// mark_updated(). The host's part in it is the same in every step.
  void update(const at::Tensor& grad_norm);
  /// Gathered copies of all weights are out of date, as update() leaves them.
  void mark_updated();
  /// Weights and both moments of every unit.
  std::vector<StateTensor> state() const;

 private:
  at::Tensor clip_factor(const at::Tensor& grad_norm) const;
  bool decays(const Slice& slice) const;

  std::span<const std::unique_ptr<ShardedUnit>> units_;
  const OptimizerConfig& config_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;  // of each unit
  at::Tensor decaying_, constant_;                // AdamW's constants of the step, with weight decay and without
};

}  // namespace olmoe

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
  /// `units` and `config` must outlive this object. Moments begin at zero, in the dtype of the shards.
  Optimizer(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config);
  /// Global L2 norm of the gradients, float64 [1] on their device: squares of this rank's slices, summed over
  /// `shard`. Collective over shard.
  at::Tensor grad_norm(Communicator& shard) const;
  /// begin_step() and update(). `grad_norm`: as grad_norm() returns it.
  void step(int64_t step, double lr, const at::Tensor& grad_norm);
  /// Uploads the AdamW constants of step `step`, counted from 1, asynchronously.
  void begin_step(int64_t step, double lr);
  /// Clips, updates weights and moments (none where the norm is not finite), zeroes the gradients and calls
  /// mark_updated(). Its host code is the same in every step, so that a graph can capture it.
  void update(const at::Tensor& grad_norm);
  /// Marks the gathered copies of all weights as outdated, as after update().
  void mark_updated();
  /// Weights and both moments of every unit; the tensors share memory with this optimizer and the units.
  std::vector<StateTensor> state() const;

 private:
  at::Tensor clip_factor(const at::Tensor& grad_norm) const;
  bool decays(const Slice& slice) const;

  std::span<const std::unique_ptr<ShardedUnit>> units_;
  const OptimizerConfig& config_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;  // of each unit
  at::Tensor decaying_, constant_;                // AdamW constants of the step, with weight decay and without
};

}  // namespace olmoe

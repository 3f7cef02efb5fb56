#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "parallel/sharded_unit.h"
#include "trainer/checkpoint/state_tensor.h"
#include "trainer/config/config.h"
#include "trainer/config/parameter_groups.h"
#include "trainer/optimizer/muon.h"
#include "trainer/optimizer/shard_part.h"

namespace olmoe {

/// A step of a run, counted from 1, and the same step of its optimizer, whose moments may have taken up steps of an
/// earlier run before. Not explicit: a number alone is a step of a run whose moments began at zero.
struct StepNumber {
  StepNumber(int64_t step, int64_t earlier = 0) : of_run(step), of_optimizer(earlier + step) {}
  int64_t of_run, of_optimizer;
};

/// AdamW on the shards of all units, after clipping by the global norm; with optimizer.kind muon Muon for matrices.
/// optimizer.groups give parameters a learning rate and weight decay of their own, or freeze them: a frozen parameter
/// stays as it is, has no moments, and its gradient is not part of the norm.
class Optimizer {
 public:
  /// `units` and `config` must outlive this object. Moments begin at zero, in the dtype of the shards.
  Optimizer(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config);
  /// Global L2 norm of the gradients, float64 [1] on their device: squares of this rank's slices, summed over
  /// `shard`. Collective over shard.
  at::Tensor grad_norm(Communicator& shard) const;
  /// begin_step() and update(). `grad_norm`: as grad_norm() returns it.
  void step(StepNumber step, double lr, const at::Tensor& grad_norm);
  /// Uploads the constants of step `step` asynchronously: bias corrections are of the optimizer's step, the clipping
  /// norm is of the run's. `lr`: the schedule's rate.
  void begin_step(StepNumber step, double lr);
  /// Clips, updates weights and moments (none where the norm is not finite), zeroes the gradients and calls
  /// mark_updated(). Its host code is the same in every step, so that a graph can capture it. Collective over the
  /// groups of the units with Muon.
  void update(const at::Tensor& grad_norm);
  /// Marks the gathered copies of all weights as outdated, as after update().
  void mark_updated();
  /// Weights of every unit, both moments of what AdamW trains of it, and the momentum of what Muon does; the tensors
  /// share memory with this optimizer and the units.
  std::vector<StateTensor> state() const;

 private:
  /// AdamW's constants of the step, for all parameters with one scale of the rate and one weight decay.
  struct Constants {
    double lr_scale, weight_decay;
    at::Tensor of_step;
  };
  /// How the parameters of a unit are treated.
  struct UnitState {
    ShardPart adamw;                 // what AdamW trains
    std::vector<size_t> constants;   // of each of its slices, an index of constants_
    at::Tensor exp_avg, exp_avg_sq;  // of adamw
    ShardPart trained, frozen;       // of the first the norm is made; padding between slices is zero
  };

  at::Tensor clip_factor(const at::Tensor& grad_norm) const;
  size_t find_constants(double lr_scale, double weight_decay);
  UnitState make_state(const ShardedUnit& unit);

  std::span<const std::unique_ptr<ShardedUnit>> units_;
  const OptimizerConfig& config_;
  std::vector<Constants> constants_;
  at::Tensor clip_norm_;           // float64 [], of the step; undefined where all steps have config_.clip_norm
  std::vector<UnitState> states_;  // of each unit
  std::optional<Muon> muon_;
};

}  // namespace olmoe

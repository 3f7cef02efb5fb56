#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "parallel/matrix_homes.h"
#include "parallel/sharded_unit.h"
#include "trainer/checkpoint/state_tensor.h"
#include "trainer/config/config.h"
#include "trainer/config/parameter_groups.h"
#include "trainer/optimizer/newton_schulz.h"
#include "trainer/optimizer/shard_part.h"

namespace olmoe {

/// Muon on the matrices that optimizer.kind muon gives it. With g the clipped gradient, of a matrix W:
///   m = momentum m + (1 - momentum) g;  u = nesterov ? (1 - momentum) g + momentum m : m
///   W = (1 - lr weight_decay) W - lr lr_factor NewtonSchulz(u)
/// Momentum and weights are sharded as AdamW's; u is rounded to the compute dtype and sent to the home of its matrix
/// (matrix_homes.h), whose result returns to the ranks that hold parts of it. Source: Jordan et al., Muon (2024).
class Muon {
 public:
  /// `units` must outlive this object. Momentum begins at zero, in the dtype of the shards.
  Muon(std::span<const std::unique_ptr<ShardedUnit>> units, const OptimizerConfig& config);
  /// Uploads the constants of a step, asynchronously. `lr`: the schedule's rate.
  void begin_step(double lr);
  /// Updates weights and momentum and zeroes the gradients. `grad_factor`: the clipping factor, float64 [1] on the
  /// device; where it is not finite nothing is updated. Collective over the groups of the units.
  void update(const at::Tensor& grad_factor);
  /// The momentum of what is trained, kind "momentum"; the tensors share memory with this object.
  std::vector<StateTensor> state() const;

 private:
  /// Of all matrices with one scale of the rate, its factor included, and one weight decay.
  struct Constants {
    double lr_scale, lr_factor, weight_decay;
    at::Tensor of_step_2;  // factor of the weight, factor of the update; master dtype
  };
  /// Elements of a shard that lie in one piece in the buffer too, of matrices with the same constants.
  struct Run {
    int64_t in_shard, in_buffer, numel;
    size_t constants;
  };
  /// What is trained of a unit.
  struct Part {
    ShardedUnit* unit;
    ShardPart shard_part;
    at::Tensor momentum;
    std::vector<size_t> constants;  // of each matrix, an index of constants_
    std::vector<Run> runs;          // of this rank's shard
  };
  /// Pieces that make up a matrix whose home is this rank.
  using HomeMatrix = std::vector<MatrixPiece>;
  /// Units that share one group of ranks.
  struct Group {
    Communicator* ranks;
    std::vector<Part> parts;
    MatrixExchange exchange;
    std::map<std::pair<int64_t, int64_t>, std::vector<HomeMatrix>> homed;  // by rows and columns
  };
  /// What the step computes with on the device, and what leaves all as it is where the norm is not finite.
  struct Guard {
    at::Tensor not_finite_1, grad_factor_1, decay_1;
  };

  MatrixUnit add_part(Group& group, ShardedUnit& unit, const OptimizerConfig& config);
  size_t find_constants(const ParamRule& rule, double lr_factor);
  void plan(Group& group, std::span<const MatrixUnit> units, const MatrixHomes& homes);
  void update(Group& group, const Guard& guard);
  void take_gradients(const Part& part, const Guard& guard, const at::Tensor& buffer) const;
  void orthogonalise(const Group& group, const at::Tensor& buffer) const;
  void apply(const Part& part, const Guard& guard, const at::Tensor& buffer) const;

  const MuonConfig& config_;
  NewtonSchulz newton_schulz_;
  at::ScalarType compute_dtype_;
  at::Tensor unchanged_2_;  // constants with which weights stay as they are
  std::vector<Constants> constants_;
  std::vector<Group> groups_;
};

}  // namespace olmoe

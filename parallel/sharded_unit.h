#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "parallel/gather_pool.h"
#include "parallel/param_role.h"

namespace olmoe {

/// One parameter of a unit, as this rank computes with it (expert parameters: the rank's own
/// experts).
struct UnitParam {
  std::string name;                   ///< full name, unique in the model
  std::vector<int64_t> shape;         ///< of the tensor in *slot
  std::vector<int64_t> global_shape;  ///< of the whole parameter, all experts included
  int64_t first = 0;                  ///< where `shape` begins in the flattened global parameter
  at::Tensor* slot = nullptr;         ///< receives the permanent parameter view
  /// Of one whose backward can store its gradient and not only add to it; null: it adds. Set when the full gradients
  /// are claimed, in place of zeros: then the backward stores, all of it, and clears this.
  bool* to_store = nullptr;
  ParamRole role = ParamRole::matrix;
};

/// A contiguous piece of a parameter that lives in this rank's shard.
struct Slice {
  std::string name;
  std::vector<int64_t> global_shape;
  int64_t begin, end;  ///< elements of the flattened *global* parameter
  int64_t offset;      ///< where it begins in the shard, in elements
  ParamRole role = ParamRole::matrix;
};

/// The parameters of a stage (or of its experts), flattened and cut in equal slices over a group of
/// ranks.
///
/// `shard` and `grad` are the fp32 (float64 when compute is float64) copy that is trained. The flat
/// layout starts each parameter at a 256-byte multiple and pads the end so that every rank holds
/// the same number of elements; padding is zero and belongs to no Slice. Knows *how* to gather and
/// scatter, not *when*.
class ShardedUnit {
 public:
  ShardedUnit(std::vector<UnitParam> params, Communicator& group, at::ScalarType compute_dtype, at::Device device);
  ShardedUnit(const ShardedUnit&) = delete;  // pools know their tenants by address
  ShardedUnit& operator=(const ShardedUnit&) = delete;

  /// Elements of the flat, gathered unit (padding included): the size of the buffers given to
  /// bind().
  int64_t flat_numel() const { return flat_numel_; }
  /// Once: parameters become leaves that are permanent views of `weights` (compute dtype,
  /// [flat_numel]), their .grad permanent views of `grads` (master dtype, [flat_numel]; grad_dtype
  /// is set to it). Each is a range of a GatherPool, or a tensor of this unit alone. In a group of
  /// one whose compute dtype is the master dtype, `weights` may be `shard` itself and `grads`
  /// `grad`: then gather, claim_full_grads and reduce_grads have nothing to move.
  void bind(PoolRange weights, PoolRange grads);
  /// Casts the shard and all-gathers it into the bound weights, through variable_data(), so that a
  /// kept graph is valid again. Does nothing when the buffer still holds this unit's current
  /// weights. Collective over the group.
  void gather();
  /// Another unit may now overwrite the weights (debug builds fill them with NaN).
  void release();
  /// True while the bound buffer holds this unit's current weights. Backward ENSUREs it.
  bool gathered() const;
  /// Call after `shard` changed (optimizer step, load): the gathered copy is out of date. `rounded`:
  /// the change was written to rounded_shard() too, and the next gather() need not.
  void invalidate(bool rounded = false);
  /// [flat_numel / size] compute dtype: this rank's part of the bound weights, for one who changes
  /// `shard` anyway. Undefined where another unit may take the buffer, and where it is `shard`.
  at::Tensor rounded_shard() const;
  /// Before gradients are made: claims the bound full gradients, unless they hold this unit's of earlier micro-batches
  /// that were not reduced yet (ZeRO-1). Zeroes them, but for what is going to be stored (UnitParam::to_store).
  void claim_full_grads();
  /// reduce_scatter of the full gradients, *added* to grad; then their buffer is free. Throws if another unit has
  /// claimed it since claim_full_grads(), or if nothing was stored where it should. `wire` ([at least flat_numel], or
  /// undefined): the gradients travel in its dtype and are summed in that of grad. Collective over the group.
  void reduce_grads(const at::Tensor& wire = {});

  at::Tensor shard;  ///< [flat_numel / size] master dtype
  at::Tensor grad;   ///< same shape
  std::span<const Slice> slices() const { return slices_; }
  std::span<const UnitParam> params() const { return params_; }

 private:
  void lay_out();
  void bind_param(const UnitParam& param, int64_t begin) const;
  at::Tensor own_part(const at::Tensor& flat) const;
  void zero_added_grads() const;

  std::vector<UnitParam> params_;
  std::vector<int64_t> begins_;  ///< where each parameter starts in the flat unit, in elements
  std::vector<Slice> slices_;
  Communicator& group_;
  at::ScalarType compute_dtype_;
  int64_t flat_numel_ = 0;
  std::optional<PoolRange> weights_, grads_;
  bool weights_are_shard_ = false;
  bool shard_is_rounded_ = false;  ///< rounded_shard() is up to date
  bool grads_are_grad_ = false;
};

}  // namespace olmoe

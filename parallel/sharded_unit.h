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

/// One parameter of a unit, as this rank computes with it (expert parameters: those of the rank's own experts).
struct UnitParam {
  std::string name;                   ///< full name, unique in the model
  std::vector<int64_t> shape;         ///< of the tensor in *slot
  std::vector<int64_t> global_shape;  ///< of the whole parameter, all experts included
  int64_t first = 0;                  ///< element of the flattened global parameter at which `shape` begins
  at::Tensor* slot = nullptr;         ///< set to the parameter, a view of the unit's weights, by bind()
  /// For a parameter whose backward can store its gradient instead of adding to it; null: it adds. Set to true when the
  /// full gradients are claimed, which are then not zeroed: the backward stores all of the gradient and sets it to
  /// false.
  bool* to_store = nullptr;
  ParamRole role = ParamRole::matrix;
  RowParts parts = {};
};

/// A contiguous range of one parameter in this rank's shard.
struct Slice {
  std::string name;
  std::vector<int64_t> global_shape;
  int64_t begin, end;  ///< elements of the flattened *global* parameter
  int64_t offset;      ///< element of the shard at which it begins
  ParamRole role = ParamRole::matrix;
};

/// The parameters of a stage (or of its experts), flattened and divided into equal shards over a group of ranks.
///
/// `shard` holds the master weights and `grad` their gradients, in the master dtype: fp32, or float64 if the compute
/// dtype is float64. In the flat layout (flat_layout.h) parameters are aligned, and the end is padded so that all
/// shards are equal; padding is zero and belongs to no Slice. This class knows *how* to gather and reduce, not *when*.
/// Where a function needs bind() first, it throws Error without it.
class ShardedUnit {
 public:
  /// `shard` and `grad` are zeros. Throws Error for a parameter without slot, or outside of its global shape.
  ShardedUnit(std::vector<UnitParam> params, Communicator& group, at::ScalarType compute_dtype, at::Device device);
  ShardedUnit(const ShardedUnit&) = delete;  // pools know their owners by address
  ShardedUnit& operator=(const ShardedUnit&) = delete;

  /// Elements of the gathered unit, padding included: the size of the buffers for bind().
  int64_t flat_numel() const { return flat_numel_; }
  /// Makes the parameters leaves that are views of `weights` ([flat_numel], compute dtype), and their .grad views of
  /// `grads` ([flat_numel], master dtype; grad_dtype is set to it), for the life of the unit. Each is a range of a
  /// GatherPool, or a tensor of this unit alone. In a group of one whose compute dtype is the master dtype, `weights`
  /// may be `shard` itself and `grads` `grad`: then gather(), claim_full_grads() and reduce_grads() do nothing. Throws
  /// Error for other sizes, dtypes or devices, and if called twice.
  void bind(PoolRange weights, PoolRange grads);
  /// Casts the shard to the compute dtype and all-gathers it into the bound weights, through variable_data(), so that a
  /// saved autograd graph is valid again. Does nothing if the buffer still holds this unit's current weights.
  /// Collective over the group.
  void gather();
  /// Another unit may now overwrite the weights (debug builds fill them with NaN).
  void release();
  /// True while the bound buffer holds this unit's current weights. Backward checks it.
  bool gathered() const;
  /// To be called after `shard` changed (optimizer step, load): the gathered weights are out of date. `rounded`: the
  /// change was written to rounded_shard() too, and the next gather() need not cast. Throws Error if there is none.
  void invalidate(bool rounded = false);
  /// This rank's part of the bound weights, [flat_numel / size] in the compute dtype, for an optimizer to write the
  /// rounded `shard` to. Undefined if another unit may claim the buffer, or if it is `shard`.
  at::Tensor rounded_shard() const;
  /// To be called before a backward: claims the buffer of full gradients and zeroes it, except for what will be stored
  /// (UnitParam::to_store). Does nothing if it holds this unit's gradients of earlier micro-batches that were not
  /// reduced yet (ZeRO-1).
  void claim_full_grads();
  /// *Adds* the reduce_scatter of the full gradients to `grad`, and releases their buffer. `buffer` ([at least
  /// flat_numel], or undefined): gradients are sent in its dtype (the reduce dtype), and summed in that of `grad`.
  /// Throws Error if another unit claimed the buffer since claim_full_grads(), or a gradient that should be stored was
  /// not. Collective over the group.
  void reduce_grads(const at::Tensor& buffer = {});

  at::Tensor shard;  ///< [flat_numel / size], master dtype
  at::Tensor grad;   ///< the same
  std::span<const Slice> slices() const { return slices_; }
  std::span<const UnitParam> params() const { return params_; }
  /// Where each parameter begins in the flat unit, in elements.
  std::span<const int64_t> begins() const { return begins_; }
  at::ScalarType compute_dtype() const { return compute_dtype_; }
  /// The ranks that share the unit.
  Communicator& group() const { return group_; }

 private:
  void lay_out();
  void bind_param(const UnitParam& param, int64_t begin) const;
  at::Tensor own_part(const at::Tensor& flat) const;
  void zero_added_grads() const;

  std::vector<UnitParam> params_;
  std::vector<int64_t> begins_;
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

#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace olmoe {

/// A range of a flat buffer that one unit is bound to. Ranges of one pool may overlap: claim() makes the caller the
/// owner of this range, and ends the ownership of every range that overlaps it.
class PoolRange {
 public:
  /// A whole tensor [numel] that no other range overlaps. Throws Error if it is not flat and contiguous.
  PoolRange(at::Tensor flat);  // NOLINT(google-explicit-constructor): a tensor is a pool of one range
  /// The memory of this range [numel].
  const at::Tensor& flat() const { return flat_; }
  /// Whether another range may overlap this one.
  bool shared() const { return shared_; }
  /// Makes `owner` the owner, in place of the owners of overlapping ranges.
  void claim(const void* owner);
  /// True from claim() until release() with the same owner, or until an overlapping range is claimed.
  bool held_by(const void* owner) const;
  /// Ends the ownership, if `owner` has it.
  void release(const void* owner);

 private:
  friend class GatherPool;
  struct Ownership {
    int64_t begin, end;
    const void* owner;
  };
  using Owners = std::vector<Ownership>;
  PoolRange(at::Tensor flat, int64_t begin, std::shared_ptr<Owners> owners);

  at::Tensor flat_;
  int64_t begin_ = 0;
  bool shared_ = true;
  std::shared_ptr<Owners> owners_;  ///< of the whole pool
};

/// A flat buffer that units use in turn. With two for weights and two for gradients, selected by the parity of the
/// stage, one stage computes while the next is gathered (ZeRO-3).
class GatherPool {
 public:
  /// Zeros [numel].
  GatherPool(int64_t numel, at::ScalarType dtype, at::Device device);
  /// Uses the memory of `flat` [numel].
  explicit GatherPool(at::Tensor flat);
  int64_t numel() const { return flat_.numel(); }
  /// The elements [begin, begin + numel). The ranges of units of one stage do not overlap. Throws Error for elements
  /// outside of the pool.
  PoolRange range(int64_t begin, int64_t numel) const;

 private:
  at::Tensor flat_;
  std::shared_ptr<PoolRange::Owners> owners_;
};

}  // namespace olmoe

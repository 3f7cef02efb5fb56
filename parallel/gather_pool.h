#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace olmoe {

/// A range of a flat buffer that one unit is bound to. Ranges of one pool may overlap: `claim`
/// makes this range its owner's and ends the tenancy of every range that it overlaps.
class PoolRange {
 public:
  /// A whole tensor, shared with no one.
  PoolRange(at::Tensor flat);  // NOLINT(google-explicit-constructor): a tensor is a pool of one
  /// [numel], the memory of this range.
  const at::Tensor& flat() const { return flat_; }
  /// Whether another range may overlap this one.
  bool shared() const { return shared_; }
  void claim(const void* tenant);
  /// True from `tenant`'s claim until its vacate, or until an overlapping range is claimed.
  bool held_by(const void* tenant) const;
  void vacate(const void* tenant);

 private:
  friend class GatherPool;
  struct Tenancy {
    int64_t begin, end;
    const void* tenant;
  };
  using Tenancies = std::vector<Tenancy>;
  PoolRange(at::Tensor flat, int64_t begin, std::shared_ptr<Tenancies> tenancies);

  at::Tensor flat_;
  int64_t begin_ = 0;
  bool shared_ = true;
  std::shared_ptr<Tenancies> tenancies_;  ///< of the whole pool: who is in it now, and where
};

/// One flat buffer in which units take turns. Two for weights and two for gradients, chosen by the
/// parity of the stage, keep one stage computing while the next is gathered (ZeRO-3).
class GatherPool {
 public:
  GatherPool(int64_t numel, at::ScalarType dtype, at::Device device);
  /// Over a flat tensor that was made for it.
  explicit GatherPool(at::Tensor flat);
  int64_t numel() const { return flat_.numel(); }
  /// The elements [begin, begin + numel). Units of one stage get ranges side by side.
  PoolRange range(int64_t begin, int64_t numel) const;

 private:
  at::Tensor flat_;
  std::shared_ptr<PoolRange::Tenancies> tenancies_;
};

}  // namespace olmoe

#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace olmoe {

/// A range of a flat buffer that one unit is bound to. Ranges of one pool may overlap: claim() makes this range its
/// tenant's, and ends the tenancy of every range that it overlaps.
class PoolRange {
 public:
  /// A whole tensor [numel] that no other range overlaps. Throws Error if it is not flat and contiguous.
  PoolRange(at::Tensor flat);  // NOLINT(google-explicit-constructor): a tensor is a pool of one range
  /// The memory of this range [numel].
  const at::Tensor& flat() const { return flat_; }
  /// Whether another range may overlap this one.
  bool shared() const { return shared_; }
  void claim(const void* tenant);
  /// True from claim() until vacate() with the same tenant, or until an overlapping range is claimed.
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
  std::shared_ptr<Tenancies> tenancies_;  ///< of the whole pool
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
  std::shared_ptr<PoolRange::Tenancies> tenancies_;
};

}  // namespace olmoe

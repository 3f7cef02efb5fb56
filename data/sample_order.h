#pragma once
#include <cstdint>

namespace olmoe {

/// A seeded random permutation of [0, num_instances) for each epoch, evaluated at one place without an index
/// file or any memory: a keyed Feistel network on the next even power of two, walked until it lands inside.
class SampleOrder {
 public:
  SampleOrder(int64_t num_instances, uint64_t seed);
  /// Instance at `position` of the endless stream: epoch = position / num_instances.
  int64_t instance(int64_t position) const;

 private:
  int64_t num_instances_;
  uint64_t seed_;
  int half_bits_;
};

}  // namespace olmoe

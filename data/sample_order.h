#pragma once
#include <cstdint>

#include "core/random.h"

namespace olmoe {

/// A seeded random permutation of [0, num_instances) for each epoch, evaluated at one place without
/// an index file or any memory: a keyed Feistel network on the next even power of two, walked until
/// it lands inside. Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002 (cycle
/// walking).
class SampleOrder {
 public:
  SampleOrder(int64_t num_instances, uint64_t seed);
  /// Instance at `position` of the endless stream: epoch = position / num_instances.
  int64_t instance(int64_t position) const;

 private:
  uint64_t permute(uint64_t block, uint64_t epoch) const;

  int64_t num_instances_;
  RandomStream stream_;
  int half_bits_;
};

}  // namespace olmoe

#pragma once
#include <cstdint>

#include "core/random.h"

namespace olmoe {

/// The shuffled order of sequences: a seeded random permutation of [0, num_sequences) for each epoch, evaluated at one
/// position without an index file or any memory. A keyed Feistel network permutes the next even power of two; it is
/// applied until the result is in range (cycle walking). Source: Black and Rogaway, Ciphers with Arbitrary Finite
/// Domains, 2002.
class SequenceOrder {
 public:
  /// Throws Error if num_sequences < 1.
  SequenceOrder(int64_t num_sequences, uint64_t seed);
  /// The sequence at `position` of the endless stream: epoch = position / num_sequences. Throws Error if it is
  /// negative.
  int64_t at(int64_t position) const;

 private:
  uint64_t permute(uint64_t block, uint64_t epoch) const;

  int64_t num_sequences_;
  RandomStream stream_;
  int half_bits_;
};

}  // namespace olmoe

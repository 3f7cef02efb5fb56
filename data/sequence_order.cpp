#include "data/sequence_order.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace olmoe {
namespace {

// Four Feistel rounds suffice for large domains; small ones need more to mix.
constexpr uint64_t kRounds = 8;

int half_bits_for(int64_t num_sequences) {
  // Halves of 2 bits reach only some of the even permutations: visible below 16 sequences.
  constexpr int kMinHalfBits = 3;
  const int bits = std::bit_width(static_cast<uint64_t>(num_sequences - 1));
  return std::max(kMinHalfBits, (bits + 1) / 2);
}

}  // namespace

SequenceOrder::SequenceOrder(int64_t num_sequences, uint64_t seed)
    : num_sequences_(num_sequences), stream_(seed, "sample order"), half_bits_(0) {
  ENSURE(num_sequences >= 1, "a sequence order needs at least one sequence, got {}", num_sequences);
  half_bits_ = half_bits_for(num_sequences);
}

int64_t SequenceOrder::at(int64_t position) const {
  ENSURE(position >= 0, "position {} of the sequence order is negative", position);
  const auto num_sequences = static_cast<uint64_t>(num_sequences_);
  const uint64_t epoch = static_cast<uint64_t>(position) / num_sequences;
  uint64_t block = static_cast<uint64_t>(position) % num_sequences;
  do {
    block = permute(block, epoch);
  } while (block >= num_sequences);
  return static_cast<int64_t>(block);
}

uint64_t SequenceOrder::permute(uint64_t block, uint64_t epoch) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = block >> half_bits_;
  uint64_t right = block & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    // A distinct counter for every (epoch, round, right): no two epochs share a round function.
    const uint64_t counter = ((epoch * kRounds + round) << half_bits_) | right;
    const uint64_t mixed = left ^ (stream_.bits(counter) & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits_ | right;
}

}  // namespace olmoe

#include "data/sample_order.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace olmoe {
namespace {

// Four rounds suffice for large domains; small ones need more to forget where they began.
constexpr uint64_t kRounds = 8;

int half_bits_for(int64_t num_instances) {
  // Halves of 2 bits reach only part of the even permutations, which shows below 16 instances.
  constexpr int kMinHalfBits = 3;
  const int bits = std::bit_width(static_cast<uint64_t>(num_instances - 1));
  return std::max(kMinHalfBits, (bits + 1) / 2);
}

}  // namespace

SampleOrder::SampleOrder(int64_t num_instances, uint64_t seed)
    : num_instances_(num_instances), stream_(seed, "sample order"), half_bits_(0) {
  ENSURE(num_instances >= 1, "a sample order needs at least one instance, got {}", num_instances);
  half_bits_ = half_bits_for(num_instances);
}

int64_t SampleOrder::instance(int64_t position) const {
  ENSURE(position >= 0, "position {} of the sample order is negative", position);
  const auto num_instances = static_cast<uint64_t>(num_instances_);
  const uint64_t epoch = static_cast<uint64_t>(position) / num_instances;
  uint64_t block = static_cast<uint64_t>(position) % num_instances;
  do {
    block = permute(block, epoch);
  } while (block >= num_instances);
  return static_cast<int64_t>(block);
}

uint64_t SampleOrder::permute(uint64_t block, uint64_t epoch) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = block >> half_bits_;
  uint64_t right = block & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    // A counter of its own for every (epoch, round, right): no two epochs share a round function.
    const uint64_t counter = ((epoch * kRounds + round) << half_bits_) | right;
    const uint64_t mixed = left ^ (stream_.bits(counter) & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits_ | right;
}

}  // namespace olmoe

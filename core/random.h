#pragma once
#include <cstdint>
#include <string_view>

namespace olmoe {

/// Counter-based random numbers: value `index` of stream `key` is a pure function of both (Philox4x32-10,
/// Salmon et al. 2011). No state, so nothing depends on rank, order or world size.
class RandomStream {
 public:
  /// The stream of a name under a seed.
  RandomStream(uint64_t seed, std::string_view name);
  uint64_t bits(uint64_t index) const;
  /// Uniform in (0, 1), 53 bits, never 0 or 1.
  double uniform(uint64_t index) const;
  /// Standard normal cut at +-cutoff standard deviations, by inversion: one uniform for each value.
  double truncated_normal(uint64_t index, double cutoff) const;

 private:
  uint64_t key_;
};

}  // namespace olmoe

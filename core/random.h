#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace olmoe {

/// One block of Philox4x32-10: four random words, a pure function of counter and key.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// The standard normal's quantile of probability 0.5 + q, to about 1e-16 relative. Throws Error unless |q| < 0.5.
/// Source: Wichura, algorithm AS 241 (PPND16), Applied Statistics 37, 1988.
double normal_quantile(double q);

/// Counter-based random numbers (Philox): value `index` of a stream is a pure function of seed, name and index.
/// Stateless: nothing depends on rank, order or world size.
class RandomStream {
 public:
  RandomStream(uint64_t seed, std::string_view name);
  uint64_t bits(uint64_t index) const;
  /// Uniform in (0, 1): an odd multiple of 2^-53, so never 0 or 1, and symmetric about 1/2.
  double uniform(uint64_t index) const;

 private:
  uint64_t key_;
};

/// Standard normals truncated at +-cutoff standard deviations: value `index` inverts the distribution at the stream's
/// uniform of that index. Throws Error for a cutoff that is not positive.
class TruncatedNormal {
 public:
  TruncatedNormal(const RandomStream& stream, double cutoff);
  double operator()(uint64_t index) const;

 private:
  RandomStream stream_;
  double cutoff_, inside_;  ///< inside_: the probability of |x| < cutoff
};

}  // namespace olmoe

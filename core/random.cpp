#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/hash.h"

namespace olmoe {
namespace {

uint32_t low(uint64_t word) { return static_cast<uint32_t>(word); }
uint32_t high(uint64_t word) { return static_cast<uint32_t>(word >> 32); }

/// Coefficients in the order of rising powers.
double polynomial(const std::array<double, 8>& coefficients, double x) {
  double sum = 0;
  for (size_t i = coefficients.size(); i-- > 0;) sum = sum * x + coefficients[i];
  return sum;
}

/// A ratio of polynomials of degree 7.
struct Rational {
  std::array<double, 8> numerator, denominator;
  double operator()(double x) const { return polynomial(numerator, x) / polynomial(denominator, x); }
};

// clang-format off
constexpr Rational kCentre{
    {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
    {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}};
constexpr Rational kShoulder{
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
constexpr Rational kTail{
    {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
    {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};
// clang-format on

}  // namespace

std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product_0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product_1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {high(product_1) ^ counter[1] ^ key[0], low(product_1), high(product_0) ^ counter[3] ^ key[1],
               low(product_0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

double normal_quantile(double q) {
  ENSURE(std::abs(q) < 0.5, "a normal has no quantile at 0.5 + {}", q);
  if (std::abs(q) <= 0.425) return q * kCentre(0.180625 - q * q);
  const double r = std::sqrt(-std::log(0.5 - std::abs(q)));
  return std::copysign(r <= 5 ? kShoulder(r - 1.6) : kTail(r - 5), q);
}

RandomStream::RandomStream(uint64_t seed, std::string_view name) : key_(hash64(name, seed)) {}

uint64_t RandomStream::bits(uint64_t index) const {
  const auto block = philox4x32_10({low(index), high(index), 0, 0}, {low(key_), high(key_)});
  return uint64_t{block[1]} << 32 | block[0];
}

double RandomStream::uniform(uint64_t index) const { return (static_cast<double>(bits(index) >> 12) + 0.5) * 0x1p-52; }

TruncatedNormal::TruncatedNormal(const RandomStream& stream, double cutoff)
    : stream_(stream), cutoff_(cutoff), inside_(std::erf(cutoff / std::numbers::sqrt2)) {
  ENSURE(cutoff > 0, "a normal cannot be truncated at {} standard deviations", cutoff);
}

double TruncatedNormal::operator()(uint64_t index) const {
  return std::clamp(normal_quantile((stream_.uniform(index) - 0.5) * inside_), -cutoff_, cutoff_);
}

}  // namespace olmoe

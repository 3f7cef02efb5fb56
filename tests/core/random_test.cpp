#include "core/random.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "support/catch.h"

namespace olmoe {
namespace {

double normal_probability(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

}  // namespace

// Source: kat_vectors of Random123, the authors' library.
TEST_CASE("Philox gives the published blocks") {
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr uint32_t kOnes = 0xffffffff;
  CHECK(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
        std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a value depends on seed, name and index alone") {
  const RandomStream stream(7, "blocks.0.attention.wq");
  std::vector<uint64_t> forward, backward(100);
  for (uint64_t i = 0; i < 100; ++i) forward.push_back(stream.bits(i));
  for (uint64_t i = 100; i-- > 0;) backward[i] = RandomStream(7, "blocks.0.attention.wq").bits(i);
  CHECK(forward == backward);
  CHECK(stream.bits(5) != RandomStream(8, "blocks.0.attention.wq").bits(5));
  CHECK(stream.bits(5) != RandomStream(7, "blocks.1.attention.wq").bits(5));
  CHECK(stream.bits(5) != stream.bits(5 + (uint64_t{1} << 32)));
}

TEST_CASE("uniforms are inside (0, 1), with the moments of a uniform distribution") {
  const RandomStream stream(1, "uniform");
  constexpr int kCount = 1'000'000;
  double sum = 0, square_sum = 0, least = 1, greatest = 0;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double u = stream.uniform(i);
    sum += u;
    square_sum += u * u;
    least = std::min(least, u);
    greatest = std::max(greatest, u);
  }
  CHECK(least > 0);
  CHECK(greatest < 1);
  // Five standard errors of the mean of u (1/sqrt(12 n)) and of u^2 (sqrt(4/45 / n)).
  CHECK(std::abs(sum / kCount - 0.5) < 5 * std::sqrt(1.0 / 12 / kCount));
  CHECK(std::abs(square_sum / kCount - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / kCount));
}

TEST_CASE("normal_quantile inverts the normal distribution") {
  CHECK(normal_quantile(0) == 0);
  // Check value of the paper: the 0.975 quantile.
  CHECK(normal_quantile(0.475) == Approx(1.959963984540054).epsilon(1e-15));
  for (const double x : {-8.0, -5.5, -3.0, -1.5, -1.0, -0.3, -1e-5}) {
    const double p = normal_probability(x);
    INFO(x);
    // The input 0.5 + q rounds p by up to 2^-54, which moves x by that over the density.
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * 3.141592653589793);
    const double tolerance = 4e-16 * std::abs(x) + 0x1p-53 / density;
    CHECK(std::abs(normal_quantile(p - 0.5) - x) < tolerance);
    CHECK(normal_quantile(0.5 - p) == -normal_quantile(p - 0.5));
  }
  CHECK_THROWS_AS(normal_quantile(0.5), Error);
  CHECK_THROWS_AS(normal_quantile(std::nan("")), Error);
}

TEST_CASE("the truncated normal is within its cutoff, with its moments") {
  const RandomStream stream(3, "normal");
  constexpr int kCount = 1'000'000;
  for (const double cutoff : {1.0, 3.0}) {
    const TruncatedNormal normal(stream, cutoff);
    double sum = 0, square_sum = 0, cube_sum = 0, greatest = 0;
    for (uint64_t i = 0; i < kCount; ++i) {
      const double x = normal(i);
      sum += x;
      square_sum += x * x;
      cube_sum += x * x * x;
      greatest = std::max(greatest, std::abs(x));
    }
    const double density = std::exp(-0.5 * cutoff * cutoff) / std::sqrt(2 * 3.141592653589793);
    const double variance = 1 - 2 * cutoff * density / (2 * normal_probability(cutoff) - 1);
    CHECK(greatest <= cutoff);
    CHECK(greatest > 0.999 * cutoff);
    // Five standard errors; the fourth moment is at most 3, the sixth at most 15.
    CHECK(std::abs(sum / kCount) < 5 * std::sqrt(variance / kCount));
    CHECK(std::abs(square_sum / kCount - variance) < 5 * std::sqrt(3.0 / kCount));
    CHECK(std::abs(cube_sum / kCount) < 5 * std::sqrt(15.0 / kCount));
  }
  CHECK_THROWS_AS(TruncatedNormal(stream, 0.0), Error);
}

}  // namespace olmoe

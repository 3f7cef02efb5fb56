// exp for loops that must vectorise: the C library's is a call.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace olmoe::kernels {

/// e^x within 1.5 ulp; results below the smallest normal number are flushed to zero, NaN stays NaN.
/// Source: reduction by Cody & Waite, x = n ln2 + r; Taylor-like polynomial in r on [-ln2/2,
/// ln2/2].
[[gnu::always_inline]] inline float fast_exp(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInt =
      12582912.f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  constexpr float kMax = 88.72283f, kMin = -87.33654f;
  const float below = x > kMax ? kMax : x, clamped = below < kMin ? kMin : below;
  const float shifted = clamped * kLog2e + kRoundToInt;
  const float n = shifted - kRoundToInt;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  p = p * (r * r) + r + 1.f;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) << 23;
  const float scaled = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
  const float upper = x > kMax ? std::numeric_limits<float>::infinity() : scaled;
  return x < kMin ? 0.f : upper;
}

/// In float64, which only tests of the parallel logic compute in, exactness goes before speed.
inline double fast_exp(double x) { return std::exp(x); }

}  // namespace olmoe::kernels

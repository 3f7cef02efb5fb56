// Scalars of the compute dtypes, for CPU and GPU: accumulation type, rounding, and exp and sigmoid in a form that
// compilers can inline and vectorise.
#pragma once
#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace olmoe::kernels {

#define OLMOE_ELEMENT [[gnu::always_inline]] C10_HOST_DEVICE inline
/// True in code compiled for a GPU, which has instructions where the CPU's loops need several operations.
#ifdef __CUDA_ARCH__
constexpr bool kDeviceCode = true;
namespace device {
/// 1 / (1 + e^-x) by ex2.approx and rcp.approx, without the branches and calls of exact functions. Relative error below
/// (|x| + 4) 2^-23 (PTX ISA: 2^-22 and 2^-23; the rounding error of the argument grows with |x|); subnormal results are
/// flushed to zero. Minus infinity gives 0, infinity 1, NaN NaN.
__device__ inline float sigmoid(float x) {
  float power, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.f + power));
  return inverse;
}
/// Converts two values to bf16 by one instruction, `low` into the low half. Single conversions have a quarter of the
/// throughput.
__device__ inline uint32_t bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
}  // namespace device
#else
constexpr bool kDeviceCode = false;
namespace device {
float sigmoid(float x);
uint32_t bf16_pair(float low, float high);
}  // namespace device
#endif

/// The type that values of T are computed and accumulated in: float for bf16 and float, double for double.
template <typename T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
OLMOE_ELEMENT Acc<T> load(const T& value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>)
    return std::bit_cast<float>(static_cast<uint32_t>(value.x) << 16);
  else
    return value;
}

/// Rounds to nearest, ties to even; NaN stays NaN. Branch-free, so that loops vectorise.
template <typename T>
OLMOE_ELEMENT T rounded(Acc<T> value) {
  if constexpr (std::is_same_v<T, c10::BFloat16> && kDeviceCode) {
    return c10::BFloat16(value);  // one instruction for two values; a NaN's payload is lost
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return {static_cast<uint16_t>(value != value ? quiet_nan : nearest), c10::BFloat16::from_bits()};
  } else {
    return value;
  }
}

/// The same for two values.
template <typename T>
struct RoundedPair {
  T first, second;
};
template <typename T>
OLMOE_ELEMENT RoundedPair<T> rounded(Acc<T> first, Acc<T> second) {
  if constexpr (std::is_same_v<T, c10::BFloat16> && kDeviceCode)
    return std::bit_cast<RoundedPair<T>>(device::bf16_pair(first, second));
  else
    return {rounded<T>(first), rounded<T>(second)};
}

/// e^x within 1.5 ulp; subnormal results are flushed to zero, NaN stays NaN. std::exp is a library call, which prevents
/// vectorisation. Source: Cody and Waite's range reduction x = n ln2 + r, and the polynomial of Cephes' expf in r on
/// [-ln2/2, ln2/2].
OLMOE_ELEMENT float fast_exp(float x) {
  if constexpr (kDeviceCode) return std::exp(x);  // the code below would not preserve a GPU's NaN, 0x7fffffff
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInt = 12582912.f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
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
/// float64 is used only by tests of the parallel logic, where accuracy matters more than speed.
OLMOE_ELEMENT double fast_exp(double x) { return std::exp(x); }

template <typename A>
OLMOE_ELEMENT A sigmoid(A x) {
  if constexpr (kDeviceCode && std::is_same_v<A, float>)
    return device::sigmoid(x);
  else
    return 1 / (1 + fast_exp(-x));
}

}  // namespace olmoe::kernels

#include "kernels/vector_math.h"

#include "compare.h"
#include "kernels/dtypes.h"
#include "kernels/row_loop.h"

using namespace olmoe::kernels;

TEST_CASE("fast_exp is within 1.5 ulp of exp over its whole range", "[kernels]") {
  double worst_ulp = 0;
  for (float x = -87.3f; x < 88.7f; x += 0.00037f) {
    const double exact = std::exp(static_cast<double>(x));
    const float nearest = static_cast<float>(exact);
    const double ulp = std::nextafter(nearest, std::numeric_limits<float>::infinity()) - nearest;
    worst_ulp = std::max(worst_ulp, std::abs(fast_exp(x) - exact) / ulp);
  }
  CHECK(worst_ulp < 1.5);
}

TEST_CASE("fast_exp overflows to infinity, underflows to zero and keeps NaN", "[kernels]") {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(fast_exp(0.f) == 1.f);
  CHECK(fast_exp(89.f) == inf);
  CHECK(fast_exp(inf) == inf);
  CHECK(fast_exp(-88.f) == 0.f);
  CHECK(fast_exp(-inf) == 0.f);
  CHECK(std::isnan(fast_exp(std::nanf(""))));
  CHECK(std::isnan(fast_exp(-std::nanf(""))));
}

TEST_CASE("rounding to bf16 is to the nearest, ties to even", "[kernels]") {
  for (uint32_t bits = 0; bits < 0xffffffffu - 4099u; bits += 4099u) {
    const float value = std::bit_cast<float>(bits);
    const c10::BFloat16 ours = rounded<c10::BFloat16>(value), theirs(value);
    if (std::isnan(value) ? !std::isnan(load(ours)) : ours.x != theirs.x) FAIL(bits);
  }
  CHECK(rounded<c10::BFloat16>(1.00390625f).x == 0x3f80);  // halfway between 1 and its successor
  CHECK(rounded<c10::BFloat16>(1.01171875f).x == 0x3f82);  // halfway again, the even one above
  CHECK(std::isnan(load(rounded<c10::BFloat16>(std::bit_cast<float>(0x7fffffffu)))));
}

TEST_CASE("every instruction set gives the same sums to rounding", "[kernels]") {
  std::vector<float> x(1003);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  float plain = 0, wide = 0;
  const auto sum_to = [&x](float* total) {
    return [&x, total](int64_t begin, int64_t end) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = begin; i < end; ++i) sum += x[i] * x[i];
      *total = sum;
    };
  };
  sum_to (&plain)(0, 1003);
  vectorized(sum_to(&wide), 0, 1003);
  CHECK(plain == Approx(wide).epsilon(1e-6));
  CHECK(plain > 400);
}

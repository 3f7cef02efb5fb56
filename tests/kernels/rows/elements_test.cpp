#include "kernels/rows/elements.h"

#include <cstdlib>
#include <string>

#include "kernels/compare.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

using namespace olmoe::kernels;

namespace {

/// f of each element, in a loop that is vectorised as the kernels' are.
template <typename To, typename From, typename F>
std::vector<To> each(const std::vector<From>& in, const F& f) {
  std::vector<To> out(in.size());
  const From* const from = in.data();
  To* const to = out.data();
  vectorized(
      [=](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) to[i] = f(from[i]);
      },
      0, static_cast<int64_t>(in.size()));
  return out;
}

}  // namespace

TEST_CASE("fast_exp is within 1.5 ulp of exp over its whole range", "[kernels]") {
  std::vector<float> x;
  for (float next = -87.3f; next < 88.7f; next += 0.00037f) x.push_back(next);
  const auto ours = each<float>(x, [](float value) { return fast_exp(value); });
  double worst_ulp = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    const float nearest = static_cast<float>(exact);
    const double ulp = std::nextafter(nearest, std::numeric_limits<float>::infinity()) - nearest;
    worst_ulp = std::max(worst_ulp, std::abs(ours[i] - exact) / ulp);
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
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0xffffffffu - 4099u; bits += 4099u) values.push_back(std::bit_cast<float>(bits));
  const auto ours = each<c10::BFloat16>(values, [](float x) { return rounded<c10::BFloat16>(x); });
  for (size_t i = 0; i < values.size(); ++i) {
    const c10::BFloat16 theirs(values[i]);
    if (std::isnan(values[i]) ? !std::isnan(load(ours[i])) : ours[i].x != theirs.x) FAIL(values[i]);
  }
  CHECK(rounded<c10::BFloat16>(1.00390625f).x == 0x3f80);  // halfway between 1 and its successor
  CHECK(rounded<c10::BFloat16>(1.01171875f).x == 0x3f82);  // halfway again, the even one above
  CHECK(std::isnan(load(rounded<c10::BFloat16>(std::bit_cast<float>(0x7fffffffu)))));
}

TEST_CASE("ATEN_CPU_CAPABILITY chooses the vectors", "[kernels]") {
  const char* const capability = std::getenv("ATEN_CPU_CAPABILITY");
  if (capability != nullptr && std::string(capability) == "avx2")
    CHECK_FALSE(has_avx512());
  else
    CHECK(has_avx512() == static_cast<bool>(__builtin_cpu_supports("avx512f")));
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

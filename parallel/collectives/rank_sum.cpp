#include "parallel/collectives/rank_sum.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "core/error.h"

namespace olmoe {
namespace {

// The sums of one tile stay in the first-level cache while all parts are read.
constexpr int64_t kTile = 1024;
constexpr int64_t kGrain = 16 * kTile;

template <class Out, class In>
constexpr bool kReducible = std::is_same_v<Out, In> ||
                            (!std::is_integral_v<Out> && !std::is_integral_v<In> && sizeof(In) < sizeof(Out));

template <Reduce op, class T>
T combine(T a, T b) {
  if constexpr (op == Reduce::sum) return a + b;
  // b != b: a NaN replaces a, and no later comparison replaces a NaN.
  if constexpr (op == Reduce::max) return b > a || b != b ? b : a;
  if constexpr (op == Reduce::min) return b < a || b != b ? b : a;
}

template <Reduce op, class Out, class In>
void reduce_range(Out* out, std::span<const std::byte* const> parts, int64_t begin, int64_t end) {
  std::array<Out, kTile> sum;
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t n = std::min(kTile, end - first);
    std::copy_n(reinterpret_cast<const In*>(parts[0]) + first, n, sum.begin());
    for (const std::byte* part : parts.subspan(1)) {
      const In* in = reinterpret_cast<const In*>(part) + first;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) sum[i] = combine<op>(sum[i], static_cast<Out>(in[i]));
    }
    std::copy_n(sum.begin(), n, out + first);
  }
}

template <class Out, class In>
void reduce_parts(HostArray out, std::span<const std::byte* const> parts, Reduce op) {
  auto* data = reinterpret_cast<Out*>(out.data);
  at::parallel_for(0, out.numel, kGrain, [&](int64_t begin, int64_t end) {
    switch (op) {
      case Reduce::sum:
        return reduce_range<Reduce::sum, Out, In>(data, parts, begin, end);
      case Reduce::max:
        return reduce_range<Reduce::max, Out, In>(data, parts, begin, end);
      case Reduce::min:
        return reduce_range<Reduce::min, Out, In>(data, parts, begin, end);
    }
  });
}

/// Calls f with a value of the C++ type of `dtype`; false if that type is not reduced.
template <class F>
bool with_type(at::ScalarType dtype, F f) {
  switch (dtype) {
    case at::kDouble:
      return f(double{});
    case at::kFloat:
      return f(float{});
    case at::kBFloat16:
      return f(at::BFloat16{});
    case at::kLong:
      return f(int64_t{});
    case at::kInt:
      return f(int32_t{});
    default:
      return false;
  }
}

/// Calls f(Out, In) if In can be reduced into Out; false if it cannot.
template <class F>
bool with_types(at::ScalarType out, at::ScalarType in, F f) {
  return with_type(out, [&]<class Out>(Out out_value) {
    return with_type(in, [&]<class In>(In in_value) {
      if constexpr (kReducible<Out, In>) f(out_value, in_value);
      return kReducible<Out, In>;
    });
  });
}

}  // namespace

void check_reducible(at::ScalarType in, at::ScalarType out, const std::string& call) {
  const bool known = with_types(out, in, [](auto, auto) {});
  ENSURE(known, "{}: cannot reduce {} into {}", call, c10::toString(in), c10::toString(out));
}

void reduce_in_rank_order(HostArray out, std::span<const std::byte* const> parts, at::ScalarType dtype, Reduce op) {
  const bool known =
      with_types(out.dtype, dtype, [&]<class Out, class In>(Out, In) { reduce_parts<Out, In>(out, parts, op); });
  ENSURE(known, "cannot reduce {} into {}", c10::toString(dtype), c10::toString(out.dtype));
}

void sum_in_rank_order(const at::Tensor& out, const at::Tensor& parts_Pn) {
  check_reducible(parts_Pn.scalar_type(), out.scalar_type(), "sum_in_rank_order");
  const at::Tensor sum_n = out.view(-1);
  sum_n.copy_(parts_Pn[0]);
  for (int64_t rank = 1; rank < parts_Pn.size(0); ++rank) sum_n.add_(parts_Pn[rank]);
}

}  // namespace olmoe

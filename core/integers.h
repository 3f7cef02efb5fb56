#pragma once
#include <cstdint>

namespace olmoe {

/// n / divisor, rounded up. n >= 0, divisor > 0; nothing is checked.
constexpr int64_t ceil_div(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

/// The least multiple of `multiple` that is not below n. n >= 0, multiple > 0.
constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

/// The begin of part p when n elements are divided into `parts` nearly equal parts, in order: part p is
/// [cut(n, parts, p), cut(n, parts, p + 1)). The sizes of two parts differ by 1 at most. 0 <= p <= parts. No product is
/// larger than n or parts * parts: large n do not overflow.
constexpr int64_t cut(int64_t n, int64_t parts, int64_t p) { return n / parts * p + n % parts * p / parts; }

}  // namespace olmoe

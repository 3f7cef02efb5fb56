// The three compute dtypes of the CPU kernels, and how a value enters and leaves a computation.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/error.h"

namespace olmoe::kernels {

/// The type that values of T are computed and accumulated in: float for bf16 and float, double for
/// double.
template <typename T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// dtype of Acc<T> for the T of `dtype`: what statistics and weight gradients are kept in.
inline at::ScalarType acc_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

template <typename T>
[[gnu::always_inline]] inline Acc<T> load(const T& value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>)
    return std::bit_cast<float>(static_cast<uint32_t>(value.x) << 16);
  else
    return value;
}

/// Rounds to the nearest T, ties to even; NaN stays NaN. Free of branches, so that loops vectorise.
template <typename T>
[[gnu::always_inline]] inline T rounded(Acc<T> value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return {static_cast<uint16_t>(value != value ? quiet_nan : nearest),
            c10::BFloat16::from_bits()};
  } else {
    return value;
  }
}

/// Calls f.operator()<T>() with the C++ type of a compute dtype. Throws on any other dtype.
template <typename F>
void for_dtype(at::ScalarType dtype, const F& f) {
  if (dtype == at::kFloat) return f.template operator()<float>();
  if (dtype == at::kDouble) return f.template operator()<double>();
  ENSURE(dtype == at::kBFloat16, "no kernel for dtype {}", c10::toString(dtype));
  f.template operator()<c10::BFloat16>();
}

/// Throws unless `x` is a defined CPU tensor of `dim` dimensions.
inline void ensure_cpu(const at::Tensor& x, int64_t dim, const char* name) {
  ENSURE(x.defined() && x.is_cpu(), "{} must be a CPU tensor", name);
  ENSURE(x.dim() == dim, "{} has {} dimensions, {} expected", name, x.dim(), dim);
}

/// Throws unless `dw` can take gradients of a parameter that computes in `dtype`: contiguous, at
/// least fp32.
inline void ensure_weight_grad(const at::Tensor& dw, at::ScalarType dtype) {
  ENSURE(dw.is_cpu() && dw.is_contiguous(), "a weight gradient must be a contiguous CPU tensor");
  ENSURE(dw.scalar_type() == acc_dtype(dtype), "a weight gradient of {} must be {}, not {}",
         c10::toString(dtype), c10::toString(acc_dtype(dtype)), c10::toString(dw.scalar_type()));
}

/// `x` itself where each row is one dense run of memory of its own (row stride free), else a
/// contiguous copy: expanded rows, all in one place, are no matrix that BLAS could read.
inline at::Tensor dense_rows(const at::Tensor& x) {
  bool dense = x.size(-1) <= 1 || x.stride(-1) == 1;
  for (int64_t dim = 0; dim + 1 < x.dim(); ++dim)
    dense = dense && (x.size(dim) <= 1 || x.stride(dim) != 0);
  return dense ? x : x.contiguous();
}

}  // namespace olmoe::kernels

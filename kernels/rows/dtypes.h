// The three compute dtypes of the kernels, and the operand checks that all kernels share.
#pragma once
#include <ATen/core/Tensor.h>

#include "core/error.h"
#include "kernels/rows/elements.h"

namespace olmoe::kernels {

/// dtype of Acc<T> for the T of `dtype`: that of statistics and weight gradients.
inline at::ScalarType acc_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// Calls f.operator()<T>() with the C++ type of a compute dtype. Throws Error for any other dtype.
template <typename F>
void for_dtype(at::ScalarType dtype, const F& f) {
  if (dtype == at::kFloat) return f.template operator()<float>();
  if (dtype == at::kDouble) return f.template operator()<double>();
  ENSURE(dtype == at::kBFloat16, "no kernel for dtype {}", c10::toString(dtype));
  f.template operator()<c10::BFloat16>();
}

/// Throws Error unless `x` is a defined tensor of `dim` dimensions.
inline void ensure_dim(const at::Tensor& x, int64_t dim, const char* name) {
  ENSURE(x.defined(), "{} is undefined", name);
  ENSURE(x.dim() == dim, "{} has {} dimensions, {} expected", name, x.dim(), dim);
}

/// Throws Error unless `x` is on the same device as `with`, a CPU or a GPU.
inline void ensure_same_device(const at::Tensor& x, const at::Tensor& with, const char* name) {
  ENSURE(with.is_cpu() || with.is_cuda(), "{}: no kernels for {}", name, with.device().str());
  ENSURE(x.device() == with.device(), "{} is on {}, the others on {}", name, x.device().str(), with.device().str());
}

/// Throws Error unless `dw` can hold the gradient of a parameter whose compute dtype is `dtype`: contiguous, at least
/// fp32.
inline void ensure_weight_grad(const at::Tensor& dw, at::ScalarType dtype) {
  ENSURE(dw.is_contiguous(), "a weight gradient must be contiguous");
  ENSURE(dw.scalar_type() == acc_dtype(dtype), "a weight gradient of {} must be {}, not {}", c10::toString(dtype),
         c10::toString(acc_dtype(dtype)), c10::toString(dw.scalar_type()));
}

/// `x` if the elements of each row are contiguous (the row stride is free, but not 0), else a contiguous copy. Expanded
/// rows are copied, since BLAS cannot read a row stride of 0.
inline at::Tensor dense_rows(const at::Tensor& x) {
  bool dense = x.size(-1) <= 1 || x.stride(-1) == 1;
  for (int64_t dim = 0; dim + 1 < x.dim(); ++dim) dense = dense && (x.size(dim) <= 1 || x.stride(dim) != 0);
  return dense ? x : x.contiguous();
}

/// Pointer and stride of a matrix with dense rows; null for an undefined tensor.
template <typename T>
struct Rows {
  const T* all;
  int64_t stride;
  explicit Rows(const at::Tensor& x_ND)
      : all(x_ND.defined() ? x_ND.const_data_ptr<T>() : nullptr), stride(x_ND.defined() ? x_ND.stride(0) : 0) {}
  const T* operator[](int64_t n) const { return all + n * stride; }
};

}  // namespace olmoe::kernels

// GEMM of row-major matrices in place, through the BLAS inside LibTorch. Within an at::parallel_for on several threads
// a GEMM runs on the calling thread alone; elsewhere on all threads.
#pragma once
#include <cstdint>

#include "kernels/rows/dtypes.h"

namespace olmoe::kernels::blas {

struct Size {
  int64_t m, n, k;
};
template <typename T>
struct Matrix {
  T* data;
  int64_t row_stride;       ///< in elements, as stored
  bool transposed = false;  ///< read as its transpose
};

/// c [m, n] = alpha * a [m, k] * b [k, n] + beta * c, accumulated in Acc<T>. With beta 0, c is not read.
/// Throws Error if a size or a stride exceeds 2^31 - 1.
void multiply(Size size, float alpha, Matrix<const float> a, Matrix<const float> b, float beta, Matrix<float> c);
void multiply(Size size, double alpha, Matrix<const double> a, Matrix<const double> b, double beta, Matrix<double> c);
void multiply(Size size, float alpha, Matrix<const c10::BFloat16> a, Matrix<const c10::BFloat16> b, float beta,
              Matrix<float> c);

}  // namespace olmoe::kernels::blas

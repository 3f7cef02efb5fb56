#include "kernels/blas.h"

#include <algorithm>
#include <limits>
#include <utility>

// LibTorch does not ship a header of its BLAS. The Fortran names are standard; the GEMM of bf16 operands into fp32 is
// MKL's, which LibTorch's x86 builds contain: other builds of LibTorch do not link.
extern "C" {
void sgemm_(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, const float* alpha,
            const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
            const int* ldc);
void dgemm_(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, const double* alpha,
            const double* a, const int* lda, const double* b, const int* ldb, const double* beta, double* c,
            const int* ldc);
void cblas_gemm_bf16bf16f32(int layout, int op_a, int op_b, int m, int n, int k, float alpha, const void* a, int lda,
                            const void* b, int ldb, float beta, float* c, int ldc);
}

namespace olmoe::kernels::blas {
namespace {

int as_int(int64_t value) {
  ENSURE(value >= 0 && value <= std::numeric_limits<int>::max(), "BLAS: {} does not fit the 32 bits of its sizes",
         value);
  return static_cast<int>(value);
}

/// BLAS requires a stride of at least 1 and at least the width, even for a matrix of one row.
template <typename T>
int stride(const Matrix<T>& x, int64_t rows, int64_t columns) {
  if (x.transposed) std::swap(rows, columns);
  ENSURE(rows <= 1 || x.row_stride >= columns, "BLAS: rows of {} elements have a stride of {}", columns, x.row_stride);
  return as_int(std::max<int64_t>({1, x.row_stride, columns}));
}

/// The row-major product, computed by the column-major BLAS as c^T = b^T a^T.
template <auto gemm, typename T>
void by_columns(Size size, T alpha, Matrix<const T> a, Matrix<const T> b, T beta, Matrix<T> c) {
  const int m = as_int(size.m), n = as_int(size.n), k = as_int(size.k);
  const int lda = stride(a, size.m, size.k), ldb = stride(b, size.k, size.n), ldc = stride(c, size.m, size.n);
  gemm(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &n, &m, &k, &alpha, b.data, &ldb, a.data, &lda, &beta,
       c.data, &ldc);
}

}  // namespace

void multiply(Size size, float alpha, Matrix<const float> a, Matrix<const float> b, float beta, Matrix<float> c) {
  by_columns<sgemm_>(size, alpha, a, b, beta, c);
}

void multiply(Size size, double alpha, Matrix<const double> a, Matrix<const double> b, double beta, Matrix<double> c) {
  by_columns<dgemm_>(size, alpha, a, b, beta, c);
}

void multiply(Size size, float alpha, Matrix<const c10::BFloat16> a, Matrix<const c10::BFloat16> b, float beta,
              Matrix<float> c) {
  constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;
  cblas_gemm_bf16bf16f32(kRowMajor, a.transposed ? kTranspose : kNoTranspose, b.transposed ? kTranspose : kNoTranspose,
                         as_int(size.m), as_int(size.n), as_int(size.k), alpha, a.data, stride(a, size.m, size.k),
                         b.data, stride(b, size.k, size.n), beta, c.data, stride(c, size.m, size.n));
}

}  // namespace olmoe::kernels::blas
